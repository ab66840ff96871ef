"""Callback that slows a run down, so that a test has time to disturb it."""

import time
from typing import Any

import lightning as L
from lightning import Callback


class SlowSteps(Callback):
    """Callback that sleeps before each batch, on every process or on one."""

    def __init__(self, seconds: float = 0.5, rank: int | None = None) -> None:
        self.seconds, self.rank = seconds, rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.rank in (None, trainer.global_rank):
            time.sleep(self.seconds)
