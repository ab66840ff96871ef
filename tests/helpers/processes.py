"""Runs of lists of commands on several real processes, for the tests of strategies."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from warm_program import WarmProgram

STRATEGIES: dict[str, list[str]] = {
    "ddp": ["--trainer.strategy", "ddp"],
    "fsdp2": ["--trainer.strategy.class_path", "ShardedStrategy"],
    "tensor": [
        "--trainer.strategy.class_path=ShardedStrategy",
        "--trainer.strategy.init_args.tensor_parallel_size=2",
    ],
    "sequence": [
        "--trainer.strategy.class_path=ShardedStrategy",
        "--trainer.strategy.init_args.tensor_parallel_size=2",
        "--trainer.strategy.init_args.sequence_parallel=true",
    ],
    "fsdp": ["--trainer.strategy.class_path=cpu_fsdp.CPUFSDPStrategy"],
    **{
        f"zero{stage}": [
            "--trainer.strategy.class_path=cpu_deepspeed.CPUDeepSpeedStrategy",
            f"--trainer.strategy.init_args.stage={stage}",
        ]
        for stage in (1, 2, 3)
    },
}
"""Words of the command line that choose a strategy, by its name."""

WORKER = "import sys, strategy_worker; sys.exit(strategy_worker.main(sys.argv[1]))"
"""Python code that each process runs, with the file of its commands as argument."""


def run_on(
    program: WarmProgram,
    processes: int,
    commands: list[dict[str, Any]],
    folder: Path,
    *,
    accelerator: str | None = "cpu",
) -> str:
    """Run commands (strategy_worker.py) on several processes, all in one start, and return what they printed.

    A command is {"words": [...]}, and {"skipped": text} where it must fail with such a message. DeepSpeed takes the
    accelerator that is named, or looks for one itself.
    """
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    accelerators = {"DS_ACCELERATOR": accelerator} if accelerator else {}
    ranks = program.ranks(processes, "-c", WORKER, str(path), **accelerators)
    output = "".join(done.stdout + done.stderr for done in ranks)
    assert not any(done.returncode for done in ranks), "\n".join(
        [line for line in output.splitlines() if _tells(line)][-60:]
    )
    assert output.count("as expected") == processes * len(commands), output
    return output


def _tells(line: str) -> bool:
    """Return whether a line of output helps to understand a failure."""
    return "on rank" in line or "Error" in line or ("crosstask" in line and "line" in line)


def losses(folder: Path, name: str = "train/loss") -> list[float]:
    """Return the logged losses of a run, step after step."""
    with open(folder / "metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def file_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint of one file."""
    return torch.load(checkpoint, weights_only=False, map_location="cpu")["state_dict"]
