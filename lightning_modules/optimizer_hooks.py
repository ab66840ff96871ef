"""Lightning's hooks of the optimizer step, of clipping and of the schedule, with checks that values are finite.

The hooks call ``nonfinite_stop.py``, which stops training, under every strategy and precision. Lightning's own step
applies any gradient, and advances the schedule at steps that fp16 skips.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from .nonfinite_stop import StepGuard, gradient_norm, optimizer_tensors, require_finite_everywhere
from .optimizer_classes import set_averages


class CheckedOptimizerHooks(L.LightningModule):
    """A LightningModule whose training and evaluation stop if a loss, a gradient or a weight is not finite.

    Subclasses set ``step_loss`` at the last batch of an optimizer step, and pass each batch to ``guard``, which writes
    them to a file for ``crosstask replay`` if the step fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step_loss: Tensor | None = None
        """The loss of the optimizer step over all replicas, on the model's device; None until its last batch."""
        self.guard = StepGuard()
        self.skipped_steps = 0
        """Steps whose gradients overflowed in fp16."""
        self._applied = True

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take an optimizer step; if gradients overflow in fp16, skip the step and leave the schedule where it is.

        Raises:
            ValueError: Gradients are not finite at any loss scale.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # only the plugin of mixed precision has one
        scale = scaler.get_scale() if scaler is not None else 0.0
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        set_averages(self.trainer.optimizers, training=False)  # validation, checkpoints and exports read them
        self._applied = True
        if scaler is not None:
            self._applied = scaler.get_scale() >= scale
        elif isinstance(self.trainer.strategy, DeepSpeedStrategy):
            self._applied = bool(self.trainer.strategy.model.was_step_applied())  # type: ignore[union-attr, operator]
        if not self._applied:
            self.skipped_steps += 1
            self.log("train/skipped_steps", float(self.skipped_steps), batch_size=1)
            if scaler is not None and scaler.get_scale() < 1.0:  # lost at every scale: no overflow
                self.guard.require_finite(self, {"loss": self._last_loss, "gradient norm": math.nan})
        elif self.step_loss is not None and isinstance(self.trainer.strategy, DeepSpeedStrategy):
            if self._skips_overflows:
                return
            norm = self.trainer.strategy.model.get_global_grad_norm()  # type: ignore[union-attr, operator]
            if norm is not None:
                self.guard.require_finite(self, {"loss": self._last_loss, "gradient norm": _deepspeed_norm(norm)})

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Advance the schedule unless the optimizer's step was skipped."""
        if self._applied:
            super().lr_scheduler_step(scheduler, metric)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients by their norm over all processes, or by value; stop if they are not finite.

        DeepSpeed clips by itself and computes the norm later. Lightning's own method rejects fused optimizers under
        bf16-mixed, where no scaler is involved, and cannot clip FSDP's gradients by norm.

        Raises:
            ValueError: The step's loss or gradient is not finite, and no loss scaling will skip the step.
        """
        strategy, by_value = self.trainer.strategy, gradient_clip_algorithm == "value"
        if isinstance(strategy, DeepSpeedStrategy):
            if self.step_loss is not None and not self._skips_overflows:
                self.guard.require_finite(self, {"loss": self.step_loss})
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if isinstance(strategy, FSDPStrategy):
            largest = gradient_clip_val if gradient_clip_val and not by_value else math.inf
            norm = strategy.model.clip_grad_norm_(largest)  # type: ignore[union-attr, operator]
        else:
            norm = gradient_norm(parameters)
            if gradient_clip_val and not by_value:
                torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        if gradient_clip_val and by_value:
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        if not self._skips_overflows:
            self.guard.admit(self, {"loss": self._last_loss, "gradient norm": norm}, optimizer)

    @property
    def _last_loss(self) -> Tensor:
        assert self.step_loss is not None
        return self.step_loss

    @property
    def _skips_overflows(self) -> bool:
        """Whether losses are scaled dynamically, so that steps with infinite gradients are skipped."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return scaled or (
            isinstance(self.trainer.strategy, DeepSpeedStrategy)
            and "16-" in str(self.trainer.precision)
            and "bf16" not in str(self.trainer.precision)
        )

    def on_train_end(self) -> None:
        self.guard.read(self)

    def on_validation_start(self) -> None:
        self.guard.read(self)
        self.require_finite_weights("the model that is validated")

    def on_test_start(self) -> None:
        self.require_finite_weights("the model that is tested")

    def on_predict_start(self) -> None:
        self.require_finite_weights("the model that predicts")

    def require_finite_weights(self, where: str) -> None:
        """Reject weights that are not finite on any process; every process must call it. `where` names the model."""
        require_finite_everywhere(self.named_parameters(), where)

    def saved_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield this process's weights and optimizer states, by name.

        DeepSpeed's optimizer states are left out: their padding has any value.
        """
        yield from self.named_parameters()
        if not isinstance(self.trainer.strategy, DeepSpeedStrategy):
            for optimizer in self.trainer.optimizers:
                yield from optimizer_tensors(optimizer)

    def require_finite_checkpoint(self) -> None:
        """Reject weights or optimizer states with NaN or infinity, before they are saved over a good checkpoint.

        Every process must call it, since each looks at its part of sharded weights. The dump of a failed step is
        saved as it is.

        Raises:
            ValueError: Names the first tensor that is not finite; the existing checkpoint is kept.
        """
        if not self.guard.dumping:
            self.guard.read(self)
            require_finite_everywhere(self.saved_tensors(), "the checkpoint that would be written")


def _deepspeed_norm(norm: Tensor | float) -> float:
    """Return DeepSpeed's gradient norm; NaN in place of its -1, which means that gradients are not finite."""
    return math.nan if float(norm) < 0 else float(norm)
