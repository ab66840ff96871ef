"""Callback that logs throughput: examples and tokens per second, and model FLOPs utilization."""

import time
from collections import Counter
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning import Callback
from lightning.pytorch.strategies import FSDPStrategy
from transformers import PreTrainedModel

from ..datamodules.bilevel.bilevel_stream import BilevelBatch
from ..datamodules.packing.replicas import replicas
from ..datamodules.schema import CausalBatch, Seq2SeqBatch
from ..lightning_modules.planning.flops import peak_flops, training_flops
from .token_counts import language_rows


class Throughput(Callback):
    """Log examples, tokens and target tokens per second over all replicas, and packing efficiency.

    Padding is not counted. Model FLOPs utilization is logged if the device's peak is known. It is not logged under
    FSDP1, which hides the sizes of parameters, nor in instruction optimization, whose hypergradients are further
    passes. There the rows of both levels are counted, without the learned instructions. Every measurement synchronizes
    the device once.

    Args:
        every: Optimizer steps between two measurements.
    """

    def __init__(self, every: int = 20) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 optimizer step, got {every}")
        self.every = every
        self._counts: Counter[str] = Counter()
        """Since the last measurement; scalars on the device until it is due."""
        self._since = 0.0
        self._read_at = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(trainer)  # the time of a validation is not training time

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(batch, CausalBatch | Seq2SeqBatch | BilevelBatch):
            return
        for rows in language_rows(batch):
            self._counts.update(batch_counts(rows))
        ends = trainer.global_step == trainer.max_steps > self._read_at  # a short run is measured, too
        if trainer.global_step - self._read_at < self.every and not ends:
            return
        _synchronize(pl_module.device)
        seconds = time.monotonic() - self._since
        self._counts = Counter({name: int(count) for name, count in self._counts.items()})
        self._log(trainer, pl_module, seconds)
        if not isinstance(batch, BilevelBatch) and not isinstance(trainer.strategy, FSDPStrategy):
            self._log_utilization(trainer, pl_module, seconds)
        self._restart(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        self._counts.clear()
        self._since, self._read_at = time.monotonic(), trainer.global_step

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule, seconds: float) -> None:
        count = replicas(trainer).size
        for name in ("examples", "tokens", "targets"):
            pl_module.log(f"throughput/{name}_per_second", self._counts[name] * count / seconds, batch_size=1)
        pl_module.log("throughput/packing_efficiency", self._counts["tokens"] / self._counts["columns"], batch_size=1)

    def _log_utilization(self, trainer: L.Trainer, pl_module: L.LightningModule, seconds: float) -> None:
        peak, model = peak_flops(pl_module.device), getattr(pl_module, "model", None)
        if peak and isinstance(model, PreTrainedModel):
            counts = {
                **self._counts,
                "tokens": self._counts["tokens"] - self._counts["written"],
            }  # those of the encoder
            flops = training_flops(model, counts) / replicas(trainer).processes
            pl_module.log("throughput/model_flops_utilization", flops / seconds / peak, batch_size=1)


def batch_counts(batch: CausalBatch | Seq2SeqBatch) -> dict[str, Any]:
    """Return counts of one batch: examples, tokens, targets, columns, and the sums that ``training_flops`` needs.

    Padding counts in columns only; it is recognized by having no targets. Counts are integers, or scalars on the
    batch's device that are not read here.
    """
    trained = F.pad((batch.targets.flatten() >= 0).cumsum(0), (1, 0))
    offsets = batch.target_offsets if isinstance(batch, Seq2SeqBatch) else batch.offsets
    targets = trained[offsets.long()].diff()
    lengths = batch.offsets.diff().long() * (targets > 0)
    counts: dict[str, Any] = {
        "examples": batch.n_documents,
        "tokens": batch.n_tokens,
        "targets": trained[-1],
        "columns": batch.input_ids.numel(),
        "squares": (lengths**2).sum(),
    }
    if isinstance(batch, Seq2SeqBatch):
        counts["columns"] += batch.targets.numel()
        counts["written"] = trained[-1]
        counts["written_squares"] = (targets**2).sum()
        counts["products"] = (lengths * targets).sum()
    return counts


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
