"""Callback that counts the prompts that a process answers in a test."""

from typing import Any

import lightning as L
from lightning import Callback


class CountAnswers(Callback):
    """Callback that prints the number of prompts of this process at the end of a test."""

    answered = 0

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.answered += len(outputs or ())

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        print("prompts answered:", self.answered, flush=True)
