"""Callback that prints progress as lines, for outputs that are no terminal: log files, pipes, SLURM."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ..datamodules.base import run_data
from ..datamodules.packing.replicas import replicas
from ..datamodules.schema import Stage
from .progress import shown_metrics
from .token_counts import token_count


class ProgressLines(ProgressBar):
    """Print progress as a line every few seconds.

    In training it has step, loss, learning rate, tokens per second and time left; in evaluation, batches and examples::

        step 120 of 1600 | loss 3.214 | learning rate 1.4e-03 | 15,231 tokens/s | 0:02:41 left
        validation: batch 3 of 12, 24 of 96 examples
        validation at step 800: rouge_l 0.412, exact_match 0.301, loss 1.023

    The command line uses it instead of the progress bar if the output is no terminal; ``enable_progress_bar: false``
    disables both. Tokens are those of training rows, without padding.

    Args:
        seconds: Shortest time between two lines. The first and the last step are always printed.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        if seconds < 0:
            raise ValueError(f"seconds between two lines must be at least 0, got {seconds}")
        self.seconds = seconds
        self._enabled = True
        self._printed = self._begun = self._paused = 0.0
        self._first_step = self._step = self._examples = 0
        self._tokens: int | Tensor = 0
        self._rate = 0.0

    def disable(self) -> None:
        """Stop printing; Lightning calls it on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print and flush, so that lines appear at once in a file."""
        if self._enabled:
            print(*args, **kwargs, flush=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begun = time.monotonic()
        self._first_step = self._step = trainer.global_step
        self._tokens, self._printed = 0, -self.seconds

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tokens += token_count(batch)
        is_step, self._step = trainer.global_step > self._step, trainer.global_step
        if self._enabled and is_step and (self._is_due() or trainer.global_step == trainer.max_steps):
            self.print(self._train_line(trainer))

    def _train_line(self, trainer: L.Trainer) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-6)
        done = max(self._step - self._first_step, 1)
        parts = [f"step {self._step} of {trainer.max_steps}", *_losses(trainer), f"learning rate {self._rate:.1e}"]
        if tokens := int(self._tokens):
            parts.append(f"{tokens * replicas(trainer).size / seconds:,.0f} tokens/s")
        return " | ".join([*parts, f"{clock(seconds / done * (trainer.max_steps - self._step))} left"])

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.print("checking the validation before training")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused, self._examples = time.monotonic(), 0

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._examples = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._examples = 0

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._evaluated("validation", outputs, batch_idx, trainer.num_val_batches, trainer)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._evaluated("test", outputs, batch_idx, trainer.num_test_batches, trainer)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._evaluated("predict", outputs, batch_idx, trainer.num_predict_batches, trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begun += time.monotonic() - self._paused  # no training time
        if not trainer.sanity_checking:
            at = f" at step {trainer.global_step}" if trainer.state.fn == TrainerFn.FITTING else ""
            self._print_scores(trainer, "validation", at)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_scores(trainer, "test", "")

    def _print_scores(self, trainer: L.Trainer, stage: str, at: str) -> None:
        scores = [
            f"{name.partition('/')[2]} {float(value):.3f}"
            for name, value in trainer.progress_bar_metrics.items()
            if name.startswith(f"{stage}/")
        ]
        self.print(f"{stage}{at}: {', '.join(scores)}")

    def _evaluated(
        self, stage: str, outputs: Any, batch_idx: int, batches: int | list[int | float] | list[int], trainer: L.Trainer
    ) -> None:
        self._examples += len(outputs) if isinstance(outputs, list) else 0
        total = int(sum(batches)) if isinstance(batches, list) else batches
        if trainer.sanity_checking or not (self._is_due() or batch_idx + 1 == total):
            return
        line, data = f"{stage}: batch {batch_idx + 1} of {total}", run_data(trainer)
        if data is not None and self._examples:
            evaluated: Stage = "validation" if stage == "validation" else "test"
            examples = len(data.evaluation_examples(evaluated))
            line += f", {min(examples, self._examples * replicas(trainer).size)} of {examples} examples"
        self.print(line)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._printed < self.seconds:
            return False
        self._printed = now
        return True


def _losses(trainer: L.Trainer) -> list[str]:
    """Return the losses that a progress bar would show, as texts."""
    return [
        f"{name.removeprefix('train/')} {value:.4g}"
        for name, value in shown_metrics(trainer).items()
        if name.startswith("train/")
    ]


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> clock(3725.4)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
