"""Check this machine for runs: packages, devices, kernels, disks, SLURM.

Each line is ok, a note (some runs will not work, or not well) or broken (no run will work), with advice. The exit
status is 1 if anything is broken.

Example:
    crosstask doctor --root runs
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..datamodules.messages import counted, expanded
from ..datamodules.visible_text import visible
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(check_machine, words)


def check_machine(cache: str = "~/.cache/crosstask", root: str = ".") -> None:
    """Check the parts of this machine that a run needs, and print the results.

    Args:
        cache: Folder of the store of tokenized documents (data.init_args.cache).
        root: Folder of the runs' logs and checkpoints (trainer.default_root_dir).

    Raises:
        SystemExit: With status 1, if something is broken.
    """
    from .shared.machine_checks import all_findings

    home = expanded(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    folders = {
        "store": expanded(cache),
        "runs": expanded(root),
        "temporary files": Path(tempfile.gettempdir()),
        "models": home,
    }
    broken = 0
    for finding in all_findings(folders):
        broken += finding.state == "broken"
        print(visible(f"{finding.state:<7} {finding.topic}: {finding.text}"), flush=True)
        if finding.way_out:
            print(visible(f"{'':<7} -> {finding.way_out}"))
    print(f"{counted(broken, 'thing')} broken" if broken else "nothing is broken")
    if broken:
        sys.exit(1)
