"""Callback that writes values that are not finite into a run at a chosen step."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning import Callback
from torch.distributed.tensor import DTensor
from torch.nn import Parameter


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's shard; an operation on the whole sharded tensor would wait for the other processes."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Poison(Callback):
    """Callback that writes a value into the first weight or gradient of a parameter, before or within a step.

    Args:
        parameter: End of the parameter's name.
        step: Numbers of the steps, from 1.
        within: ``weights`` writes into the weights before the step, ``gradient`` into the gradient.
        value: Value to write.
        rank: Rank of the process; None for all processes.
    """

    def __init__(
        self,
        parameter: str,
        step: Sequence[int] = (2,),
        within: str = "weights",
        value: float = float("nan"),
        rank: int | None = None,
    ) -> None:
        self.parameter, self.step, self.within, self.value, self.rank = parameter, step, within, value, rank

    def _parameter(self, trainer: L.Trainer, module: L.LightningModule) -> Parameter | None:
        if trainer.global_step + 1 not in self.step or self.rank not in (None, trainer.global_rank):
            return None
        return next(p for name, p in module.named_parameters() if name.endswith(self.parameter))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        parameter = self._parameter(trainer, pl_module)
        if self.within == "weights" and parameter is not None:
            with torch.no_grad():
                _local(parameter).view(-1)[-1] = self.value

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parameter = self._parameter(trainer, pl_module)
        if self.within == "gradient" and parameter is not None:
            assert parameter.grad is not None
            _local(parameter.grad).view(-1)[-1] = self.value
