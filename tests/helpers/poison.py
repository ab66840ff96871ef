"""Values that are not finite, put into a run at a chosen step."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning import Callback
from torch.distributed.tensor import DTensor
from torch.nn import Parameter


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard: an operation on the whole of a sharded tensor would wait for the other processes."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Poison(Callback):
    """Writes a value into the first weight or gradient of a parameter, before or within a step.

    Args:
        parameter: End of its name.
        step: The steps, counted from 1.
        within: Its weights before the step, or its gradient.
        value: What is written.
        rank: The process, or all.
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
