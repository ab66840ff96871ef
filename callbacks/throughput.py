"""Throughput: what passes through the model in a second, and how much of the device's peak that is."""

import time
from collections import Counter
from typing import Any

import lightning as L
import torch
from lightning import Callback
from transformers import PreTrainedModel

from ..datamodules.packing.replicas import replicas
from ..datamodules.schema import CausalBatch, Seq2SeqBatch
from ..lightning_modules.planning.flops import peak_flops, training_flops


class Throughput(Callback):
    """Log examples, tokens and target tokens per second over all replicas, and packing efficiency.

    Padding never counts as work. Model FLOPs utilization is logged where the device's peak is known, and left out
    elsewhere rather than guessed. The clock is read every `every` optimizer steps, with one synchronization.

    Args:
        every: Optimizer steps between two readings.
    """

    def __init__(self, every: int = 20) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 optimizer step, got {every}")
        self.every = every
        self._counts: Counter[str] = Counter()
        self._since = 0.0
        self._read_at = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(trainer)  # the time of a validation is not training time

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(batch, CausalBatch | Seq2SeqBatch):
            return
        self._counts.update(batch_counts(batch))
        if trainer.global_step - self._read_at < self.every:
            return
        _synchronize(pl_module.device)
        seconds = time.monotonic() - self._since
        self._log(trainer, pl_module, seconds)
        self._restart(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        self._counts.clear()
        self._since, self._read_at = time.monotonic(), trainer.global_step

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule, seconds: float) -> None:
        count = replicas(trainer).size
        for name in ("examples", "tokens", "targets"):
            pl_module.log(f"throughput/{name}_per_second", self._counts[name] * count / seconds, batch_size=1)
        pl_module.log("throughput/packing_efficiency", self._counts["tokens"] / self._counts["columns"], batch_size=1)
        peak, model = peak_flops(pl_module.device), getattr(pl_module, "model", None)
        if peak and isinstance(model, PreTrainedModel):
            flops = training_flops(model, self._counts)
            pl_module.log("throughput/model_flops_utilization", flops / seconds / peak, batch_size=1)


def batch_counts(batch: CausalBatch | Seq2SeqBatch) -> dict[str, int]:
    """Examples, real tokens, target tokens, columns, and the sum of squared document lengths of one batch."""
    columns = batch.input_ids.numel() + (batch.targets.numel() if isinstance(batch, Seq2SeqBatch) else 0)
    lengths = batch.offsets.diff().long()
    return {
        "examples": batch.n_documents,
        "tokens": batch.n_tokens,
        "targets": int((batch.targets >= 0).sum()),
        "columns": columns,
        "squares": int((lengths**2).sum()),
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
