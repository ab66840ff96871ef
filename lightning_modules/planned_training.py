"""Base class of all modules: the loss of an optimizer step, reproducible dropout, exact resumption, strategies.

It decides how each strategy needs the model built and its gradients clipped, so that a module is written once and the
strategy is a line of YAML.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers import PreTrainedModel

from ..datamodules.base import BenchmarkDataModule, run_data
from ..datamodules.packing.replicas import batch_seed, realign_progress, replicas
from ..datamodules.stream_changes import changed_values, completed
from .callback_checks import keep_callback_settings
from .generation.generation_settings import published_settings, settings_as_fields
from .hyperparameters import plain_values
from .models import Network, untie_different
from .optimization import Optimization, accept_named_states, matrix_names, scheduler
from .optimizer_classes import build_optimizer, reject_optimizer, set_averages
from .optimizer_hooks import CheckedOptimizerHooks
from .resumed_settings import (
    config_changes,
    group_settings,
    plain_config,
    restore_settings,
    run_settings,
)
from .sharding.checkpoint_damage import require_undamaged
from .sharding.checkpoints import (
    KEY,
    checkpoint_extras,
    model_identity,
    read_plain_values_alone,
    require_same_model,
    written_by,
)
from .sharding.plain_checkpoints import read_plain
from .sharding.process_agreement import require_agreement
from .sharding.safetensors_folder import architecture_of
from .sharding.sharded_models import build_sharded, is_sharded, wrap_blocks
from .sharding.strategies import sharding_of
from .sharding.weight_shapes import PREFIX, require_fitting_weights, whole_weights
from .sharding.zero import build_partitioned
from .trainer_checks import (
    reject_lengths,
    reject_scaled_clipping,
    reject_settings,
    reject_spawned_processes,
    reject_two_optimizers,
    require_same_rows,
    require_same_tokenizer,
    training_steps,
)


class PlannedTraining(CheckedOptimizerHooks):
    """Base class of the LightningModules; their datamodules fix the rows of every optimizer step in advance.

    The number of targets of a whole step is therefore known, and a batch's loss is its part of the mean over the step.
    Subclasses compute this part in ``training_step``, pass it to ``step_part``, and build their model with ``built``.
    ``load_from_checkpoint(path)`` needs no further arguments: the hyperparameters in a checkpoint are the constructor's
    arguments.
    """

    network: Network
    """Settings of the model's computation."""

    optimization: Optimization
    """The optimizer and its schedule."""

    row_length: int
    """Columns of a training row."""

    total_steps: int
    """Optimizer steps of the whole training; -1 until ``setup`` reads trainer.max_steps."""

    seed: int
    """Seed of dropout."""

    model: PreTrainedModel | None
    """Built by ``configure_model``."""

    tokenizer_name: str
    """Hub name or folder of the tokenizer."""

    fixed_settings: tuple[str, ...] = (
        "lora.",
        "prefix.",
        "optimizer.algorithm",
        "optimizer.options",
        "optimizer.master_weights",
    )
    """Beginnings of the names of arguments that decide trained parameters and optimizer states; a resumed run cannot
    change them."""

    resumes_from: Path | None = None
    """The checkpoint that this run resumes from; it is compared with the model before weights are read."""

    def __init__(self) -> None:
        super().__init__()
        self._step_loss: Tensor | float = 0.0
        self._matrices: frozenset[str] = frozenset()
        self._identity: dict[str, Any] = {}
        self._group_settings: list[dict[str, Any]] = []
        self._resumed = False
        self.weights_before_wrapping: list[tuple[list[str], tuple[int, ...]]] = []  # under FSDP1

    def keep_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Save a constructor's arguments in Lightning's hyperparameters, as plain values that checkpoints can hold.

        Constructors of subclasses call it with ``locals()``.
        """
        self.hparams.clear()  # a parent's constructor has kept its own
        given = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
        self.save_hyperparameters(plain_values(given))

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """Return the module in a checkpoint, as Lightning's method does, but without running code from the file.

        The arguments are Lightning's; ``weights_only`` is always true.

        Raises:
            ValueError: The file holds more than tensors and plain values, or differs from its checksums.
        """
        if isinstance(checkpoint_path, str | Path) and "://" not in str(checkpoint_path):
            read_plain(Path(checkpoint_path))
            require_undamaged(Path(checkpoint_path))
        return super().load_from_checkpoint(checkpoint_path, *args, **{**options, "weights_only": True})

    @property
    def attached_trainer(self) -> L.Trainer | None:
        """The trainer, or None without one."""
        return self._trainer  # Lightning's public property raises an error where there is none

    def configure_callbacks(self) -> list[Any]:
        """Return no callbacks; reject settings of the trainer, since this is the first hook that has it."""
        if self._fits:
            reject_settings(self.trainer, automatic=self.automatic_optimization)
        return []

    def setup(self, stage: str) -> None:
        """Reject settings that cannot be trained or evaluated, before a model is built."""
        reject_spawned_processes(self.trainer)
        strategy, data = self.trainer.strategy, run_data(self.trainer)
        read_plain_values_alone(strategy)  # the command line's trainers do it before a model is built
        if data is not None:  # another project's datamodule vouches for itself
            require_same_tokenizer(self.tokenizer_name, data)
        if stage == "fit":
            reject_two_optimizers(self, self.trainer)
            reject_optimizer(self.optimization, strategy)
            reject_scaled_clipping(self.trainer, fused=self.optimization.fused)
            if data is not None:
                require_same_rows(self.row_length, data)
            if isinstance(data, BenchmarkDataModule) and data.epochs is not None:
                reject_lengths(self.trainer)  # the datamodule has just counted the steps
            self.total_steps = training_steps(self.total_steps, self.trainer)
            self.optimization.warmup_steps(self.total_steps)  # rejects a warm-up that is longer than the training
        if isinstance(strategy, DeepSpeedStrategy):
            # For its own log alone; Lightning would ask a training loader for it, and a test has none.
            strategy.config.setdefault("train_micro_batch_size_per_gpu", 1)  # type: ignore[union-attr]
        if self.model is not None and sharding_of(strategy) and not any(map(is_sharded, self.model.parameters())):
            raise ValueError(
                f"{type(strategy).__name__} shards a model while it is built, and this one is built already: set "
                "`pretrained` to a folder of its weights (`crosstask export`), and call fit without configure_model"
            )
        require_agreement(self, self.trainer)

    @property
    def gathers_weights(self) -> bool:
        """Whether a forward gathers weights, so that all processes must make the same number of them."""
        trainer = self.attached_trainer
        if trainer is not None and isinstance(trainer.strategy, FSDPStrategy):
            return True
        return self.model is not None and any(map(is_sharded, self.model.parameters()))

    def built(
        self,
        build: Callable[[str | None], PreTrainedModel],
        weights: str | None,
        add: Callable[[PreTrainedModel], None] | None = None,
    ) -> PreTrainedModel:
        """Return a model as the trainer's strategy needs it: whole, or this process's shards.

        Args:
            build: Returns the whole model from weights, or with random weights for None.
            weights: Hub name or folder of the weights; None for random ones.
            add: Adds parameters that are trained beside the weights, such as adapters; None if there are none.
        """
        strategy = None if self.attached_trainer is None else self.attached_trainer.strategy
        how = sharding_of(strategy)
        # Lightning calls configure_model with the device as default, where transformers loads no weights without
        # accelerate, and where random weights would differ from a CPU's. Strategies move the model themselves.
        with torch.device("cpu"):
            if how is not None:
                model = build_sharded(build, weights, how, add)
            elif isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3:
                model = build_partitioned(build, weights, add)
            else:
                model = build(weights)
                if add is not None:
                    add(model)
            # Every forward gathers weights from all processes, so generate() must run until the last one has ended.
            # transformers reads this private attribute and sets it only for models that Accelerate prepared.
            model._is_fsdp_managed_module = any(map(is_sharded, model.parameters()))  # type: ignore[assignment]
        if isinstance(strategy, FSDPStrategy):
            wrap_blocks(strategy, model)
            self.weights_before_wrapping = [
                ([f"{PREFIX}{name}" for name in names], shape) for names, shape in whole_weights(model)
            ]
        self._matrices, self._identity = matrix_names(model), model_identity(model.config)
        if self.resumes_from is not None:
            self._require_own(checkpoint_extras(self.resumes_from), self.resumes_from)
        return model

    def _require_own(self, checkpoint: dict[str, Any], where: object) -> None:
        """Reject a checkpoint of another model and, for resuming, one of another data stream or other parameters."""
        if KEY in checkpoint:
            require_same_model(self._identity, checkpoint[KEY]["model"], where)
        if not self._fits:
            return
        if "lr_schedulers" not in checkpoint:
            raise ValueError(
                f"{where} holds weights without the optimizer (save_weights_only), so that no run can resume from it: "
                "`crosstask export` it and set `pretrained` to the folder"
            )
        fixed = [change for change in self._changes(checkpoint) if change.startswith(self.fixed_settings)]
        if fixed:
            raise ValueError(
                f"{where} has parameters of other settings: {'; '.join(fixed)}. Set them back, or start a new run from "
                "the weights (`crosstask export`)"
            )
        data = run_data(self.trainer)
        if data is not None:
            data.require_same_stream(checkpoint)

    @property
    def _fits(self) -> bool:
        trainer = self.attached_trainer
        return trainer is not None and trainer.state.fn == TrainerFn.FITTING

    def _settings(self) -> dict[str, Any]:
        """Return this run's settings, in the form in which checkpoints describe them."""
        trainer = self.trainer
        algorithm = trainer.gradient_clip_algorithm
        return run_settings(
            self.hparams,
            total_steps=self.total_steps,
            clip=trainer.gradient_clip_val,
            clip_by=None if algorithm is None else str(algorithm),
            precision=trainer.precision,
        )

    def _changes(self, checkpoint: Mapping[str, Any]) -> list[str]:
        """Return the settings that differ between a checkpoint's run and this run, as sentences."""
        saved = checkpoint.get(KEY, {}).get("settings")
        settings = self._settings()
        return [] if saved is None else changed_values(completed(saved, settings, type(self)), settings)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule. Only matrices decay, also those that a strategy has flattened."""
        assert self.model is not None
        settings = self.optimization
        optimizer = build_optimizer(settings, self.model, matrices=self._matrices)
        accept_named_states(optimizer, self)
        schedule = scheduler(optimizer, settings, total=self.total_steps)
        self._group_settings = group_settings(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Restore this run's optimizer settings after loading a checkpoint; reject weights that are not finite."""
        self.require_finite_weights("the model that training starts from")
        if self._resumed and self._group_settings:  # empty where a subclass has another optimizer
            (optimizer,), (schedule,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
            restore_settings(optimizer, schedule.scheduler, self._group_settings)  # type: ignore[arg-type]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        here = replicas(self.trainer)
        seed = batch_seed(self.seed, batch_idx, here)
        if batch_idx % here.accumulation == 0:
            self.guard.begin(self.trainer.global_step + 1, run_data(self.trainer))
            set_averages(self.trainer.optimizers, training=True)
        self.guard.note(batch, seed)
        torch.manual_seed(seed)

    def batch_losses(self, batch: Any) -> dict[str, Tensor]:
        """Return what this batch adds to each loss of its optimizer step, by the loss's name.

        That is the sum over the batch's targets, divided by the number of targets of the whole step. On one replica it
        works without a trainer: ``crosstask replay`` calls it so.
        """
        raise NotImplementedError(f"{type(self).__name__} does not state the losses of a batch")

    def step_part(self, part: Tensor, batch_idx: int) -> Tensor:
        """Return the loss that Lightning differentiates; at the last batch of an optimizer step, log the step's loss.

        Args:
            part: This batch's sum of losses over its targets, divided by the number of targets of the whole step.
            batch_idx: The batch's index, as given to ``training_step``.

        Raises:
            ValueError: The loss depends on no trained parameter.
        """
        if not part.requires_grad:
            raise ValueError(
                "the loss depends on no trained parameter, so that no step would change one: train other parameters "
                "(lora.target_modules names modules that the model's forward calls)"
            )
        here = replicas(self.trainer)
        self._step_loss += part.detach()
        self.step_loss = None  # until the step is whole: DeepSpeed is called after each of its batches
        if (batch_idx + 1) % here.accumulation == 0:
            # The mean over replicas of `size` times each part is the sum of the parts.
            loss = torch.as_tensor(self._step_loss * here.size)
            self.step_loss = self.trainer.strategy.reduce(loss, reduce_op="mean") if here.size > 1 else loss
            # Lightning reads what a bar shows after every batch, and so waits for the device. Bars of crosstask do not.
            stock_bar = type(self.trainer.progress_bar_callback) in (RichProgressBar, TQDMProgressBar)
            self.log("train/loss", self.step_loss, prog_bar=stock_bar, batch_size=1)
            self._step_loss = 0.0
        return part * here.loss_scale

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add descriptions of the model and the settings to a checkpoint.

        Exports read them, loading needs no arguments because of them, and a resumed run is compared with them.

        Raises:
            ValueError: Weights or optimizer states are not finite. Nothing is written; the last checkpoint is kept.
        """
        assert self.model is not None
        self.require_finite_checkpoint()
        config = plain_config(self.model.config)
        checkpoint[KEY] = {
            "model": self._identity,
            "architecture": architecture_of(self.model),
            "config": config,
            "generation": settings_as_fields(self.model),
            "tokenizer": self.tokenizer_name,
            "strategy": written_by(self.trainer.strategy),
            "skipped_steps": self.skipped_steps,
            "pretrained": self.hparams.get("pretrained"),
            "settings": self._settings(),
        }
        # The weights are in the checkpoint: load_from_checkpoint builds the model from its configuration alone.
        arguments = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {**arguments, "pretrained": None, "config": config}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this model, and restore the step counters."""
        self._require_own(checkpoint, "ckpt_path")
        described = checkpoint.get(KEY, {})
        of_config = [] if self.model is None else config_changes(described.get("config"), self.model.config)
        if self._fits:
            self._resumed = True
            changes = [*self._changes(checkpoint), *of_config, *keep_callback_settings(self.trainer, checkpoint)]
            if changes:
                rank_zero_info(
                    f"settings that differ from the checkpoint's, applied from here on: {'; '.join(changes)}"
                )
        self.skipped_steps = described.get("skipped_steps", 0)
        if self.model is not None and (saved := described.get("generation")):
            self.model.generation_config = published_settings(saved)
        if self.model is not None and not any(map(is_sharded, self.model.parameters())):
            states = checkpoint.get("state_dict", {})
            untie_different(self.model, lambda name: states.get(f"model.{name}"))
            adapted = "adapters" in described or self.hparams.get("lora") or self.hparams.get("prefix")
            if states and not adapted and not isinstance(self._trainer and self.trainer.strategy, FSDPStrategy):
                own = {name: tuple(value.shape) for name, value in self.state_dict().items()}
                require_fitting_weights(own, {name: tuple(value.shape) for name, value in states.items()}, of_config)
        if self.attached_trainer is not None:
            realign_progress(checkpoint, replicas(self.attached_trainer))

    def answer_fingerprint(self) -> dict[str, str] | None:
        """Return what determines the answers besides the prompts, such as a digest of the weights, as strings by name.

        ``PredictionWriter`` resumes an interrupted evaluation only if they are unchanged. None: it always starts over.
        """
        return None

    def restore_answers(self, answers: Any) -> None:
        """Add the answers that an interrupted evaluation has written to the scores of this one.

        ``PredictionWriter`` calls it, and only if ``answer_fingerprint`` is not None.

        Raises:
            ValueError: The module cannot resume an evaluation.
        """
        raise ValueError(f"{type(self).__name__} cannot resume an evaluation: remove the predictions and start over")
