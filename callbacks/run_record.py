"""Callback that records how a run was started: commit, command, versions, hosts."""

import json
import os
import platform
import socket
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning import Callback

from ..datamodules.atomic_files import write_whole
from ..datamodules.packing.replicas import gathered
from .run_folder import run_folder


class RunRecord(Callback):
    """Write ``run.json`` into the run's folder when training starts; LightningCLI writes config.yaml beside it."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        host = f"{socket.gethostname()}:{os.environ.get('SLURMD_NODENAME', '')}".rstrip(":")
        hosts = gathered(host)
        folder = run_folder(trainer, ".")
        if trainer.is_global_zero:
            write_whole(folder / "run.json", json.dumps(run_record(trainer, hosts), indent=2))


def run_record(trainer: L.Trainer, hosts: list[str]) -> dict[str, Any]:
    """Return what a run's configuration does not state: time, command, commit, versions, devices, hosts.

    Args:
        trainer: The run's trainer.
        hosts: Host name of each rank, followed by SLURM's name of the node.
    """
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "commit": git_commit(),
        "python": platform.python_version(),
        "packages": {package.metadata["Name"]: package.version for package in distributions()},
        "devices": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "strategy": type(trainer.strategy).__name__,
        "host_of_rank": hosts,
        "slurm": {name: value for name, value in sorted(os.environ.items()) if name.startswith("SLURM_")},
    }


def git_commit() -> str | None:
    """Return the commit of crosstask's source, with "+" if tracked files were changed; None outside of a repository."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
