"""What all modules share that train on a planned stream: the loss of a step, dropout by place, exact resumption.

How a strategy wants a model built and its gradients clipped is known here, too, so that a module is written once and
the strategy is a line of YAML.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from ..datamodules.packing.replicas import batch_seed, realign_progress, replicas
from .optimization import accept_named_states, matrix_names, parameter_groups
from .sharding.agreement import require_agreement
from .sharding.checkpoints import KEY, checkpoint_extras, model_identity, require_same_model
from .sharding.safetensors_folder import architecture_of
from .sharding.sharded_models import build_sharded, is_cut
from .sharding.strategies import sharding_of
from .sharding.zero import build_partitioned


class PlannedTraining(L.LightningModule):
    """A module whose batches are parts of planned optimizer steps.

    A batch's loss is its part of one mean over the whole step. Subclasses take parts of that mean in
    ``training_step`` and hand them to ``step_part``; they build their model with ``built`` and their optimizer with
    ``adamw``.
    """

    seed: int
    """Decides what dropout drops."""

    model: PreTrainedModel | None
    """Built by ``configure_model``."""

    tokenizer_name: str
    """Hub name or folder of the tokenizer."""

    resumes_from: Path | None = None
    """The checkpoint that this run goes on from, compared with the model before weights are read."""

    def __init__(self) -> None:
        super().__init__()
        self._step_loss: Tensor | float = 0.0
        self._matrices: frozenset[str] = frozenset()
        self._identity: dict[str, Any] = {}
        self._applied, self.skipped_steps = True, 0

    def setup(self, stage: str) -> None:
        """Refuse what cannot be trained, and processes that were not started alike, before a model is built."""
        strategy = self.trainer.strategy
        if stage == "fit" and isinstance(strategy, DeepSpeedStrategy) and not self.automatic_optimization:
            raise ValueError(
                f"{type(self).__name__} has optimizers of its own, and DeepSpeed takes one: set the strategy to auto, "
                f"ddp or ShardedStrategy, got {type(strategy).__name__}"
            )
        if isinstance(strategy, DeepSpeedStrategy):
            # For its own log alone; Lightning would ask a training loader for it, in a test that has none.
            strategy.config.setdefault("train_micro_batch_size_per_gpu", 1)  # type: ignore[union-attr]
        require_agreement(self, self.trainer)

    def built(self, build: Callable[[str | None], PreTrainedModel], weights: str | None) -> PreTrainedModel:
        """A model as the trainer's strategy needs it: whole, or this process's part.

        Args:
            build: Builds the whole model from weights, or from random ones for None.
            weights: Hub name or folder of the weights.
        """
        strategy = None if self._trainer is None else self.trainer.strategy
        how = sharding_of(strategy)
        # Lightning calls configure_model with the device as default, where transformers loads no weights without
        # accelerate, and where random weights would differ from a CPU's. Strategies move the model themselves.
        with torch.device("cpu"):
            if how is not None:
                model = build_sharded(build, weights, how)
            elif isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3:
                model = build_partitioned(build, weights)
            else:
                model = build(weights)
            # Every forward gathers weights from all processes: generate() must go on until the last one has ended.
            model._is_fsdp_managed_module = any(map(is_cut, model.parameters()))  # type: ignore[assignment]
        if isinstance(strategy, FSDPStrategy):
            wrap_blocks(strategy, model)
        self._matrices, self._identity = matrix_names(model), model_identity(model.config)
        if self.resumes_from is not None:
            self._require_own(checkpoint_extras(self.resumes_from), self.resumes_from)
        return model

    def _require_own(self, checkpoint: dict[str, Any], where: object) -> None:
        if KEY in checkpoint:
            require_same_model(self._identity, checkpoint[KEY]["model"], where)

    def adamw(
        self,
        model: nn.Module,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool,
    ) -> AdamW:
        """The optimizer of a built model: only matrices decay, however a strategy has reshaped them since."""
        groups = parameter_groups(model, weight_decay, matrices=self._matrices)
        optimizer = AdamW(groups, lr=learning_rate, betas=betas, fused=fused)
        accept_named_states(optimizer, self)
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(batch_seed(self.seed, batch_idx, replicas(self.trainer)))

    def step_part(self, part: Tensor, batch_idx: int) -> Tensor:
        """Log the step's loss once its last batch is here, and return what Lightning should differentiate.

        Args:
            part: This batch's sum over targets, divided by the targets of the whole step.
            batch_idx: The batch's place, as given to ``training_step``.
        """
        here = replicas(self.trainer)
        self._step_loss += part.detach()
        if (batch_idx + 1) % here.accumulation == 0:
            # The mean over replicas of `size` times each part is the sum of the parts.
            loss = self._step_loss * here.size
            self.log("train/loss", loss, prog_bar=True, sync_dist=here.size > 1, batch_size=1)
            self._step_loss = 0.0
        return part * here.loss_scale

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One step; under fp16 it is skipped where gradients overflowed, and remembered for the schedule."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 0.0
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self._applied = True
        if scaler is not None:
            self._applied = scaler.get_scale() >= scale
        elif isinstance(self.trainer.strategy, DeepSpeedStrategy):
            self._applied = bool(self.trainer.strategy.model.was_step_applied())  # type: ignore[union-attr, operator]
        if not self._applied:
            self.skipped_steps += 1
            self.log("train/skipped_steps", float(self.skipped_steps), batch_size=1)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """A skipped step does not count for the schedule either."""
        if self._applied:
            super().lr_scheduler_step(scheduler, metric)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all processes; DeepSpeed has done so inside, at the trainer's value."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy) and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            # Lightning refuses this; FSDP's own method sums the norm over shards.
            strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[union-attr, operator]
        elif not isinstance(strategy, DeepSpeedStrategy):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which model this is, so that another is refused and the weights can be exported by themselves."""
        assert self.model is not None
        checkpoint[KEY] = {
            "model": self._identity,
            "architecture": architecture_of(self.model),
            "config": self.model.config.to_dict(),
            "tokenizer": self.tokenizer_name,
            "strategy": type(self.trainer.strategy).__name__,
            "skipped_steps": self.skipped_steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._require_own(checkpoint, "ckpt_path")
        self.skipped_steps = checkpoint.get(KEY, {}).get("skipped_steps", 0)
        realign_progress(checkpoint, replicas(self.trainer))


def wrap_blocks(strategy: FSDPStrategy, model: PreTrainedModel) -> None:
    """Have FSDP gather block by block, unless the user chose what to wrap."""
    if strategy.kwargs.get("auto_wrap_policy") is None:
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        from .sharding.sharded_models import blocks

        strategy.kwargs["auto_wrap_policy"] = ModuleWrapPolicy({type(block) for block in blocks(model)})
