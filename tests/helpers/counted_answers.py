"""A callback for tests: how many prompts a process was asked."""

from typing import Any

import lightning as L
from lightning import Callback


class CountAnswers(Callback):
    """Print it when a test ends."""

    asked = 0

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.asked += len(outputs or ())

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        print("asked this time:", self.asked, flush=True)
