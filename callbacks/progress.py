"""The progress bar of a training without epochs, and the metrics that bars, progress lines and summaries show."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

LOSS = "train/loss"


class TrainingBar(RichProgressBar):
    """RichProgressBar without the count of epochs, since training is counted in optimizer steps.

    Lightning would show ``0/-2`` epochs. The loss is read twice a second, since each read waits for the device.
    """

    _loss: dict[str, float] = {}  # noqa: RUF012 - replaced, never changed
    _read_at = 0.0

    # Private: the bar has no public setting for its description.
    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'Training':{len(self.validation_description)}}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        if time.monotonic() - self._read_at > 0.5:
            self._loss = training_loss(trainer)
            self._read_at = time.monotonic()
        return {**self._loss, **super().get_metrics(trainer, pl_module)}


def shown_metrics(trainer: L.Trainer) -> dict[str, float]:
    """Return the loss of the last step and the metrics that are logged for progress bars, by name.

    Reading them waits for the device.
    """
    bar = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
    return {**training_loss(trainer), **bar}


def training_loss(trainer: L.Trainer) -> dict[str, float]:
    """Return {name: loss} of the last optimizer step, over all its batches; empty before the first one."""
    loss = trainer.callback_metrics.get(LOSS)
    return {} if loss is None else {LOSS: float(loss)}
