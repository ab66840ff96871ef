"""Callback for preemption: on a signal or Ctrl-C, saves a checkpoint, stops, and has SLURM requeue the job."""

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import _TunerExitException

from ..datamodules.packing.replicas import replicas


class Preemption(Callback):
    """Save ``last.ckpt`` and stop when a scheduler sends a signal, and have SLURM requeue the job.

    SIGUSR1 announces the end of the job's time (``sbatch --signal=USR1@180``); the job is requeued. SIGTERM is sent at
    preemption, ``scontrol requeue`` and ``scancel``; SLURM decides what happens to the job. SIGINT is Ctrl-C; a second
    one stops at once, without a checkpoint.

    The signal handler only sets a flag, because a signal reaches processes at different times. All processes save
    together after the current optimizer step. (Lightning's handler saves inside the signal handler, wherever the
    program is.) A validation stops after its current batch, and the resumed run starts it again. The announced time
    must suffice for the longest optimizer step or validation batch (which generates all of its answers) and for writing
    the checkpoint. A resumed run does not repeat the validation after the last step; use ``crosstask validate``.

    ``exit_status`` is that of a process that was ended by the signal, so that ``crosstask fit && crosstask test`` does
    not test an unfinished model. It is 0 if SLURM has requeued the job, which then must not fail.

    Args:
        requeue: Whether to requeue the SLURM job on SIGUSR1.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue, self.preempted = requeue, False
        self.exit_status = 0
        self._received: signal.Signals | None = None
        self._replaced: dict[int, Any] = {}
        self._validated = 0  # validation batches before the current validation

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if checkpoint_folder(trainer) is None:
            raise ValueError("Preemption needs a ModelCheckpoint with a dirpath, to write last.ckpt into")
        before = trainer.callbacks[: trainer.callbacks.index(self)]  # type: ignore[attr-defined]
        averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
        if any(callback not in before for callback in averages):
            raise ValueError(
                f"Preemption saves after each step, before {type(averages[0]).__name__} has averaged it: list it after"
            )
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:  # a shell has its background processes ignore Ctrl-C
                self._replaced[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._received == signal.SIGINT:
                raise KeyboardInterrupt
            rank_zero_info("\nsaving a checkpoint after this step; Ctrl-C again stops at once, without a checkpoint")
        self._received = signal.Signals(number)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % replicas(trainer).accumulation or not self._signalled(trainer):
            return  # within an optimizer step, or no signal
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        # Private: no public property says whether a validation follows this batch; val_check_batch is only one input.
        if trainer.strategy.reduce_boolean_decision(loop.epoch_loop._should_check_val_fx(loop._data_fetcher)):
            return  # a validation follows, which the resumed run would skip
        self._save(trainer)
        trainer.limit_val_batches = 0  # Lightning would validate before it stops, and there is no time
        trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.ready
        self._stop_validation(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._stop_validation(trainer)

    def _stop_validation(self, trainer: L.Trainer) -> None:
        if not self._replaced or not self._signalled(trainer):  # no handlers: the sanity check before training
            return
        self._save(trainer)
        if trainer.global_step == trainer.max_steps:
            rank_zero_warn(
                "preempted in the validation after the last step, which a resumed run does not repeat: run `crosstask "
                "validate` with last.ckpt"
            )
        # Private: no public exception ends a fit anywhere with its teardown and exit status 0; KeyboardInterrupt exits
        # with 1, should_stop ends no validation, and StopIteration would log the scores of a part.
        raise _TunerExitException

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reset the validation's progress in the checkpoint.

        Otherwise Lightning would resume after the last validated batch, and score only the rest.
        """
        if self.preempted and trainer.validating:
            done, begun = {"processed": 0, "completed": 0}, {"ready": 1, "started": 1}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["current"] |= {**done, **begun}
            progress["total"] |= {name: self._validated + count for name, count in {**done, **begun}.items()}
            progress["is_last_batch"] = False

    def _signalled(self, trainer: L.Trainer) -> bool:
        """Return whether any process has received a signal; every process must call it."""
        return trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)

    def _save(self, trainer: L.Trainer) -> None:
        self.preempted = True
        folder = checkpoint_folder(trainer)
        assert folder is not None
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
        rank_zero_info(f"preempted at step {trainer.global_step}: saved {folder / 'last.ckpt'}")
        received = trainer.strategy.broadcast(self._received)  # another process than the first one may have it alone
        out_of_time = trainer.strategy.reduce_boolean_decision(self._received == signal.SIGUSR1, all=False)
        number = signal.SIGUSR1 if out_of_time else received or signal.SIGTERM
        requeued = out_of_time and self.requeue and trainer.is_global_zero and requeue_job()
        self.exit_status = 0 if trainer.strategy.broadcast(requeued) else 128 + number

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._replaced.items():
            # Lightning has put back the handlers from before the run; its own handler would ignore SIGTERM from now on.
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._replaced.clear()


def checkpoint_folder(trainer: L.Trainer) -> Path | None:
    """Return the folder of the run's ModelCheckpoint; None without one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            return Path(callback.dirpath)
    return None


def requeue_job() -> bool:
    """Have SLURM requeue this job; return whether it did. Outside of SLURM it does nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = job if array is None else f"{array}_{task}"
    done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
    if done.returncode:
        rank_zero_info(f"SLURM did not requeue job {name}: {done.stderr.strip()}")
    return done.returncode == 0
