"""Program of one of several processes: runs `crosstask` commands one after another, and imports everything once.

It gets a file of JSON: a list of {"words": [...], "skipped": text or null}. A skipped command must raise an error
whose message holds the text, on every process.
"""

import json
import os
import traceback
from pathlib import Path

import torch

from crosstask.commands.shared.trainer import run_trainer


def main(path: str) -> int:
    """Run the commands of a file, and return the exit status."""
    for number, command in enumerate(json.loads(Path(path).read_text())):
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
