"""Counts of the collectives that a training run calls, for tests of what processes exchange."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode


class CollectiveCounter(TorchDispatchMode):
    """Context that counts the calls of each collective, by torch's names."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class CountedCollectives(Callback):
    """Callback that writes the numbers of collectives in forward and backward passes of a training, as JSON.

    Args:
        file: Path that the first process writes to.
    """

    def __init__(self, file: str) -> None:
        self.file, self.counter = Path(file), CollectiveCounter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.counter.__enter__()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.counter.__exit__(None, None, None)  # before clipping

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            self.counter.__exit__(None, None, None)  # no optimizer step has ended the counting

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.file.write_text(json.dumps(self.counter.counts))
