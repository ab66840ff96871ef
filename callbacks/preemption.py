"""Preemption: a signal becomes a checkpoint at the end of a step or a validation batch, and the job goes on from it."""

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import _TunerExitException

from ..datamodules.packing.replicas import replicas


class Preemption(Callback):
    """Save ``last.ckpt`` and stop when a scheduler asks for the nodes, and have SLURM start the job again.

    SIGUSR1 announces the end of the job's time (``sbatch --signal=USR1@180``): the job is requeued. SIGTERM comes with
    preemption, ``scontrol requeue`` and ``scancel``, where SLURM itself knows what becomes of the job. The handler only
    sets a flag; the checkpoint is written between two optimizer steps, by all processes together, since the signal
    reaches them at different times. Lightning's own handler saves inside the signal, wherever the program stands.

    A validation is left after the batch that it is at, and the resumed run begins it anew, except after the last step,
    where ``crosstask validate`` does. The time that is announced must do for the longest optimizer step or
    validation batch, which generates all of its answers, and for writing the checkpoint.

    Args:
        requeue: Whether SIGUSR1 requeues the job.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue, self.preempted = requeue, False
        self._received: signal.Signals | None = None
        self._replaced: dict[int, Any] = {}
        self._validated = 0  # batches, when the validation began

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
        if (batch_idx + 1) % replicas(trainer).accumulation or not self._asked(trainer):
            return  # within an optimizer step, or undisturbed
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        if trainer.strategy.reduce_boolean_decision(loop.epoch_loop._should_check_val_fx(loop._data_fetcher)):
            return  # a validation follows, which the resumed run would leave out
        self._save(trainer)
        trainer.limit_val_batches = 0  # stopping would validate first, and there is no time
        trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.ready
        self._leave_validation(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._leave_validation(trainer)

    def _leave_validation(self, trainer: L.Trainer) -> None:
        if not self._replaced or not self._asked(trainer):  # the former before training begins
            return
        self._save(trainer)
        if trainer.global_step == trainer.max_steps:
            rank_zero_warn(
                "preempted in the validation after the last step, which a resumed run does not repeat: run `crosstask "
                "validate` with last.ckpt"
            )
        raise _TunerExitException  # Lightning's own way out of a fit at any place, with its teardown

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Within a validation, say that it has just begun: Lightning would ask the rest of it alone."""
        if self.preempted and trainer.validating:
            done, begun = {"processed": 0, "completed": 0}, {"ready": 1, "started": 1}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["current"] |= {**done, **begun}
            progress["total"] |= {name: self._validated + count for name, count in {**done, **begun}.items()}
            progress["is_last_batch"] = False

    def _asked(self, trainer: L.Trainer) -> bool:
        """Whether any process was; every process must call it."""
        return trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)

    def _save(self, trainer: L.Trainer) -> None:
        self.preempted = True
        folder = checkpoint_folder(trainer)
        assert folder is not None
        trainer.save_checkpoint(folder / "last.ckpt")
        rank_zero_info(f"preempted at step {trainer.global_step}: saved {folder / 'last.ckpt'}")
        out_of_time = trainer.strategy.reduce_boolean_decision(self._received == signal.SIGUSR1, all=False)
        if out_of_time and self.requeue and trainer.is_global_zero:
            requeue_job()

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
