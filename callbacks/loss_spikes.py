"""Callback that warns of loss spikes: optimizer steps with a loss far above that of the steps before."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..datamodules.packing.replicas import replicas
from ..lightning_modules.planned_training import PlannedTraining

NORMAL = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""


class Spike(NamedTuple):
    """A loss far above the losses before it.

    Args:
        position: Index of the loss in the sequence.
        loss: The loss.
        median: Median of the losses before it.
        deviations: Distance from the median in robust standard deviations.
    """

    position: int
    loss: float
    median: float
    deviations: float


class LossSpikes(Callback):
    """Warn of optimizer steps whose loss is far above the median of the steps before them; training continues.

    Spread is measured by the median absolute deviation, which a few spikes do not change. To avoid waiting for the
    device, losses are read every few steps.

    Args:
        window: Number of preceding optimizer steps that a loss is compared with.
        factor: A loss is a spike from this many robust standard deviations above the median.
        every: Optimizer steps between reads of the losses.
    """

    def __init__(self, window: int = 100, factor: float = 8.0, every: int = 10) -> None:
        if window < 4 or factor <= 0.0 or every < 1:
            raise ValueError(
                "window must be at least 4 steps, factor positive and every at least 1, got "
                f"{window}, {factor} and {every}"
            )
        self.window, self.factor, self.every = window, factor, every
        self.spikes = 0
        """Number of reported spikes."""
        self._losses: list[float] = []
        self._unread: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, PlannedTraining):
            raise ValueError(f"LossSpikes reads the loss of a module of crosstask, got {type(pl_module).__name__}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PlannedTraining)
        if (batch_idx + 1) % replicas(trainer).accumulation or pl_module.step_loss is None:
            return
        self._unread.append(pl_module.step_loss)
        if len(self._unread) >= self.every:
            self._report(trainer.global_step)
            pl_module.log("train/loss_spikes", float(self.spikes), batch_size=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the last losses, for a resumed run to compare with, including those that were not read yet."""
        return {"losses": [*self._losses, *_read(self._unread)], "unread": len(self._unread), "spikes": self.spikes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        losses, unread = state_dict["losses"], state_dict["unread"]
        self._losses, self.spikes = losses[: len(losses) - unread], state_dict["spikes"]
        self._unread = [torch.tensor(loss) for loss in losses[len(losses) - unread :]]

    def _report(self, step: int) -> None:
        """Read the losses up to an optimizer step and warn of spikes among them."""
        new, self._unread = _read(self._unread), []
        losses = [*self._losses, *new]
        for spike in loss_spikes(losses, len(self._losses), window=self.window, factor=self.factor):
            self.spikes += 1
            rank_zero_warn(
                f"step {step - len(losses) + spike.position + 1}: the loss {spike.loss:.4g} is {spike.deviations:.1f} "
                f"deviations above {spike.median:.4g}, the median of the steps before it"
            )
        self._losses = losses[-self.window :]


def loss_spikes(losses: Sequence[float], first: int, *, window: int, factor: float) -> list[Spike]:
    """Return the losses, from index `first` on, that are far above the median of the losses before them.

    A loss is compared with the `window` losses before it, but at least half a window. The spread is at least a
    hundredth of the median, so that noise on a flat curve is no spike. Losses that are not finite are left out.

    >>> losses = [2.0, 2.1, 1.9, 2.0, 2.1, 1.9, 5.0, 2.0]
    >>> [(spike.position, spike.median) for spike in loss_spikes(losses, first=4, window=6, factor=8.0)]
    [(6, 2.0)]

    Args:
        losses: Losses of successive optimizer steps.
        first: Index of the first loss to judge.
        window: Number of preceding losses that a loss is compared with.
        factor: Distance from the median, in robust standard deviations, from which a loss is a spike.
    """
    spikes = []
    for index in range(first, len(losses)):
        before = [loss for loss in losses[max(index - window, 0) : index] if math.isfinite(loss)]
        if len(before) < max(window // 2, 2) or not math.isfinite(losses[index]):
            continue
        median = statistics.median(before)
        spread = statistics.median(abs(loss - median) for loss in before)
        deviations = (losses[index] - median) / max(NORMAL * spread, 0.01 * abs(median), 1e-12)
        if deviations > factor:
            spikes.append(Spike(index, losses[index], median, deviations))
    return spikes


def _read(losses: Sequence[Tensor]) -> list[float]:
    """Return losses as numbers, in one transfer from the device."""
    return torch.stack([loss.detach().reshape(()) for loss in losses]).tolist() if losses else []
