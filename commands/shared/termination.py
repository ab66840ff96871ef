"""Callback that lets SIGTERM end a run of the trainer at once."""

import threading

import lightning as L
from lightning import Callback
from lightning.pytorch.trainer.states import TrainerFn

from .program_end import end_on_sigterm


class EndOnSigterm(Callback):
    """Let SIGTERM end a process at the current line of the program; in training, ``Preemption`` replaces this.

    Lightning's own handler ends an evaluation after its current batch, and first waits for the other processes, which
    may be waiting for this one in a collective.
    """

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._replace()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._replace()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._replace()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._replace()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._replace()

    def _replace(self) -> None:
        if threading.current_thread() is threading.main_thread():
            end_on_sigterm()
