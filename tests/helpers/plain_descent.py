"""Modules that descend without Adam, for tests: Adam hides a gradient of the wrong size, plain steps do not."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from crosstask.lightning_modules import chunked_cross_entropy
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.scorer import ScorerModule
from crosstask.lightning_modules.sharding.strategies import ShardedStrategy


class LargestTensor(TorchDispatchMode):
    """Context that records the number of elements of the largest tensor in memory."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in [] if func.is_view else tree_leaves(out):  # a mapped file's views take no memory, nor its bytes
            if isinstance(each, Tensor) and not each.is_meta and each.is_floating_point():
                self.largest = max(self.largest, (each.to_local() if isinstance(each, DTensor) else each).numel())
        return out


class PlainTuning(InstructionTuningModule):
    def built(
        self,
        build: Callable[[str | None], PreTrainedModel],
        weights: str | None,
        add: Callable[[PreTrainedModel], None] | None = None,
    ) -> PreTrainedModel:
        """Build the model; under a sharded strategy, check that no process has the largest weight whole."""
        if not isinstance(self.trainer.strategy, ShardedStrategy) or self.resumes_from is not None:
            return super().built(build, weights, add)  # a mapped checkpoint's tensors look as if they were held
        with LargestTensor() as seen:
            model = super().built(build, weights, add)
        whole = max(parameter.numel() for parameter in model.parameters())
        shards = self.trainer.world_size // self.trainer.strategy.copies
        assert 0 < seen.largest <= whole // shards + 64, (seen.largest, whole)
        return model

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.SGD(self.parameters(), lr=self.optimization.learning_rate)


class ChunkedTuning(PlainTuning):
    """Module whose loss is computed in chunks of 64 tokens of the vocabulary, also for few targets."""

    def configure_model(self) -> None:
        super().configure_model()
        assert self._head is not None
        self._head.chunk = 1
        chunked_cross_entropy.SMALLEST_PART = 64


class PlainScorer(ScorerModule):
    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.SGD(self.parameters(), lr=self.optimization.learning_rate)
