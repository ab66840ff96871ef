"""Preemption: a signal becomes a checkpoint at the end of the step, and the job goes on from it when it comes back."""

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from ..datamodules.packing.replicas import replicas


class Preemption(Callback):
    """Save ``last.ckpt`` and stop when a scheduler asks for the nodes, and have SLURM start the job again.

    SIGUSR1 announces the end of the job's time (``sbatch --signal=USR1@180``): the job is requeued. SIGTERM comes with
    preemption, ``scontrol requeue`` and ``scancel``, where SLURM itself knows what becomes of the job. The handler only
    sets a flag; the checkpoint is written between two optimizer steps, by all processes together, since the signal
    reaches them at different times. Lightning's own handler saves inside the signal, wherever the program stands.

    Args:
        requeue: Whether SIGUSR1 requeues the job.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue, self.preempted = requeue, False
        self._received: signal.Signals | None = None
        self._replaced: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if checkpoint_folder(trainer) is None:
            raise ValueError("Preemption needs a ModelCheckpoint with a dirpath, to write last.ckpt into")
        for number in (signal.SIGUSR1, signal.SIGTERM):
            self._replaced[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % replicas(trainer).accumulation:
            return  # within an optimizer step
        if not trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            return
        self.preempted = True
        folder = checkpoint_folder(trainer)
        assert folder is not None
        trainer.save_checkpoint(folder / "last.ckpt")
        rank_zero_info(f"preempted at step {trainer.global_step}: saved {folder / 'last.ckpt'}")
        out_of_time = trainer.strategy.reduce_boolean_decision(self._received == signal.SIGUSR1, all=False)
        if out_of_time and self.requeue and trainer.is_global_zero:
            requeue_job()
        trainer.limit_val_batches = 0  # stopping would validate first, and there is no time
        trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced.clear()


def checkpoint_folder(trainer: L.Trainer) -> Path | None:
    """Where the run's ModelCheckpoint writes."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            return Path(callback.dirpath)
    return None


def requeue_job() -> None:
    """Ask SLURM to start this job again; nothing outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = job if array is None else f"{array}_{task}"
    done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
    if done.returncode:
        rank_zero_info(f"SLURM did not requeue job {name}: {done.stderr.strip()}")
