"""Runs lists of commands on several real processes; shared by the tests of strategies."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parent

STRATEGIES: dict[str, list[str]] = {
    "ddp": ["--trainer.strategy", "ddp"],
    "fsdp2": ["--trainer.strategy.class_path", "ShardedStrategy"],
    "tensor": [
        "--trainer.strategy.class_path=ShardedStrategy",
        "--trainer.strategy.init_args.tensor_parallel_size=2",
    ],
    **{
        f"zero{stage}": [
            "--trainer.strategy.class_path=cpu_deepspeed.CPUDeepSpeedStrategy",
            f"--trainer.strategy.init_args.stage={stage}",
        ]
        for stage in (1, 2, 3)
    },
}
"""Words that choose a strategy."""


def run_on(
    processes: int,
    commands: list[dict[str, Any]],
    folder: Path,
    *,
    timeout: int = 1800,
    accelerator: str | None = "cpu",
) -> str:
    """Run commands (strategy_worker.py) on so many processes, all in one start; what they printed.

    A command is {"words": [...]}, and {"skipped": text} where it must fail with such a message. DeepSpeed takes the
    accelerator that is named, or looks for one itself.
    """
    done = start_on(processes, commands, folder, timeout=timeout, accelerator=accelerator)
    output = done.stdout + done.stderr
    assert done.returncode == 0, "\n".join([line for line in output.splitlines() if _tells(line)][-60:])
    assert done.stdout.count("as expected") == processes * len(commands), done.stdout
    return output


def start_on(
    processes: int,
    commands: list[dict[str, Any]],
    folder: Path,
    *,
    timeout: int = 1800,
    accelerator: str | None = "cpu",
) -> subprocess.CompletedProcess[str]:
    """The ended start of `run_on`, whatever its exit status."""
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        [*torchrun, str(TESTS / "strategy_worker.py"), str(path)],
        env={**os.environ, **threads, **({"DS_ACCELERATOR": accelerator} if accelerator else {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _tells(line: str) -> bool:
    """Whether a line of two processes' output is of use to who reads a failure."""
    return "on rank" in line or "Error" in line or ("crosstask" in line and "line" in line)


def losses(folder: Path, name: str = "train/loss") -> list[float]:
    """A loss of every step that a run logged."""
    with open(folder / "metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def file_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of one file."""
    return torch.load(checkpoint, weights_only=False, map_location="cpu")["state_dict"]
