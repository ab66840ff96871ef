"""One of several processes: runs `crosstask` commands one after another, so that it imports everything once.

Started by torchrun with a file of JSON: a list of {"words": [...], "skipped": text or null}. A skipped command must
raise an error whose message holds the text, on every process.
"""

import json
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch

from crosstask.commands.shared.trainer import run_trainer


def main(commands: list[dict]) -> int:
    for number, command in enumerate(commands):
        message = None
        try:
            run_trainer([word.replace("$RANK", os.environ["RANK"]) for word in command["words"]])
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if not command.get("skipped"):
                traceback.print_exc()
        skipped = command.get("skipped")
        good = message is None if skipped is None else message is not None and skipped in message
        verdict = "as expected" if good else "WRONG"
        print(f"command {number} on rank {os.environ['RANK']}: {verdict}: {message}\n", end="", flush=True)
        if not good:
            return 1
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
