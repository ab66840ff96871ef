"""Differentiable instruction optimization: instructions are learned so that training on them generalizes to new tasks.

    inner   theta <- Adam(d L_in(theta, phi) / d theta)     K steps, on inner tasks behind learnable instructions
    outer   phi   <- Adam(d L_out(theta_K(phi)) / d phi)    one step, on outer tasks with human-written instructions

Theta continues from its current value after every outer step: K is a period, and theta is neither reset nor unrolled.
The derivative of theta with respect to phi is the implicit one (hypergradients/).

Source: Differentiable Instruction Optimization for Cross-Task Generalization (arXiv 2306.10098).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import nan
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, clear_autocast_cache, no_grad, tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..datamodules.bilevel.bilevel_stream import BilevelBatch
from ..datamodules.bilevel.exemplars import InstructionInputs
from ..datamodules.bilevel.instance_rows import LanguageRows
from ..datamodules.bilevel.level_rows import InnerBatch
from ..datamodules.bilevel.presets import Preset, choices
from ..datamodules.bilevel.row_chunks import halves, inner_chunks, outer_chunks
from ..datamodules.hub_names import with_revision
from ..datamodules.packing.replicas import replicas
from .adapters import LoRA, holds_whole_weights
from .hypergradients import Diagnostics, Hypergradient, Method
from .hypergradients.parameter_vectors import cosine, norm
from .hypergradients.plain_gradients import averaged, gradients, resharded, zeros_where_none
from .hyperparameters import as_group
from .instructed_training import InstructedTraining
from .instructions.fit_checks import reject_low_precision, reject_strategy, reject_trainer, require_agreement
from .instructions.instructed_loss import model_functions
from .instructions.instruction_kinds import InstructionSettings
from .instructions.learnable_instructions import Extractor
from .instructions.outer_level import OuterLevel
from .instructions.outer_report import outer_numbers, outer_warnings
from .instructions.outer_settings import OuterSettings, outer_method
from .models import Network, require_no_balance
from .nonfinite_stop import optimizer_tensors
from .optimization import Optimization, clipped_share
from .target_loss import target_loss

STATE = "instruction_optimization"
"""Key in a checkpoint of phi's optimizer, its schedule and the counters, which Lightning does not save."""


class InstructionOptimizationModule(InstructedTraining):
    """A language model (theta) trained behind learnable instructions (phi), which are trained on other tasks.

    Learnable instructions exist only in training; evaluation answers prompts with the model alone. The trainer's
    global_step counts inner steps, ``outer_step`` outer steps. Strategies are one device, DDP and FSDP2. On any
    number of replicas, the hypergradient is that of the whole outer batch.

    Args:
        tokenizer: Hub name or folder of the tokenizer. On the command line it is set from the datamodule's `tokenizer`;
            in Python give both the same.
        pretrained: Hub name or folder of the weights to start from. Give either this or `config`.
        revision: Branch, tag or commit of `pretrained` on the hub. NAME@REVISION as a name is the same, also for
            `tokenizer`.
        config: Start from random weights: hub name or folder of a configuration, or its fields, with model_type among
            them.
        network: Attention, dropout, recomputation and parameter type of the model. Attention is document, or sdpa for
            models that cannot be packed (with rows.packing one_per_row). Finite differences need a dtype of float32 or
            float64.
        optimizer: Settings of theta's optimizer and schedule, in inner steps. Phi's optimizer has the same betas.
        instruction: Kind, size and initial values of the learnable instruction.
        outer: Settings of phi's optimizer and of the hypergradient.
        preset: Choices where the paper and its released program differ: paper, released_code, or fast (the paper's
            choices without Hessian products). bilevel/presets.py has the table. On the command line it is set from the
            datamodule's `preset`.
        row_length: Maximum number of tokens of a row, compared with the model's number of positions. On the command
            line it is set from the datamodule's `rows.length`.
        total_steps: Inner steps in the whole training, which the schedules need; -1 takes trainer.max_steps.
        lora: Make theta low-rank adapters beside the frozen weights of `pretrained`, instead of all weights. The
            hypergradient is then that of training the adapters. It needs one device or ddp.
        inner_steps: Inner steps for each outer step, K. On the command line it is set from the datamodule's
            `levels.inner_steps`.
        clip: Largest norm of a gradient; 0 for no clipping. `clipping` says of which gradient.
        clipping: theta clips theta's gradient alone. joint clips theta by the norm of theta's and phi's gradients
            together, and phi at its own steps. None takes the preset's choice.
        seed: Seed of dropout.
    """

    fixed_settings = (*InstructedTraining.fixed_settings, "instruction.")

    def __init__(
        self,
        tokenizer: str,
        pretrained: str | None = None,
        revision: str | None = None,
        config: str | dict[str, Any] | None = None,
        network: Network = Network(),  # noqa: B008 - frozen
        optimizer: Optimization = Optimization(learning_rate=1e-5, warmup=8000),  # noqa: B008 - frozen
        instruction: InstructionSettings = InstructionSettings(),  # noqa: B008 - frozen
        outer: OuterSettings = OuterSettings(),  # noqa: B008 - frozen
        preset: Preset = "paper",
        row_length: int = 1024,
        total_steps: int = -1,
        lora: LoRA | None = None,
        inner_steps: int = 20,
        clip: float = 1.0,
        clipping: Literal["theta", "joint"] | None = None,
        seed: int = 0,
    ) -> None:
        pretrained, revision = with_revision(pretrained, revision), None
        super().__init__(
            tokenizer,
            pretrained=pretrained,
            config=config,
            network=network,
            optimizer=optimizer,
            row_length=row_length,
            total_steps=total_steps,
            lora=lora,
            seed=seed,
        )
        self.keep_arguments(locals())
        self.automatic_optimization = False
        settings, self.outer = as_group(InstructionSettings, instruction), as_group(OuterSettings, outer)
        self.choices = choices(
            preset, clipping=clipping, exemplar_padding=settings.exemplar_padding, **self.outer.overrides()
        )
        if inner_steps < 1:
            raise ValueError(f"inner_steps (K) must be at least 1, got {inner_steps}")
        if not clip >= 0.0:
            raise ValueError(f"clip must be a positive norm, or 0 to clip nothing, got {clip}")
        require_no_balance(self.network)
        if self.network.embedding_dropout:
            raise ValueError(
                "instruction optimization embeds instructions and texts apart, without embedding dropout: leave "
                "network.embedding_dropout out"
            )
        if self.optimization.algorithm != "AdamW":
            raise ValueError(f"instruction optimization trains theta with AdamW, got {self.optimization.algorithm}")
        self.method = outer_method(self.outer, self.choices, inner_steps=inner_steps, compiled=self.network.compile)
        self.preset, self.inner_steps, self.clip = preset, inner_steps, clip
        self.instruction_settings = replace(settings, exemplar_padding=self.choices.exemplar_padding)
        self.instruction = None
        self.outer_level: OuterLevel | None = None
        self._restored: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Reject settings with which the instruction would never change, before a model is built."""
        if self.lora is not None and not holds_whole_weights(self.trainer.strategy):
            raise ValueError(
                "instruction optimization trains adapters beside whole weights: set the strategy to auto or ddp, got "
                f"{type(self.trainer.strategy).__name__}"
            )
        super().setup(stage)
        if stage == "fit" and self.instruction_settings.learns and self.total_steps < self.inner_steps:
            raise ValueError(
                f"total_steps (trainer.max_steps) = {self.total_steps} are fewer than inner_steps = "
                f"{self.inner_steps}: phi would never move"
            )

    @property
    def outer_step(self) -> int:
        """Number of optimizer steps that the learnable instruction's parameters (phi) have taken."""
        return 0 if self.outer_level is None else self.outer_level.steps

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return optimizer and schedule of theta, the language model's parameters.

        Those of phi, the learnable instruction's parameters, are hidden from Lightning, so that global_step counts
        theta's steps.
        """
        if not self.phi:
            return super().configure_optimizers()
        period = self.inner_steps if self.choices.outer_horizon == "outer_steps" else 1
        self.outer_level = OuterLevel(
            self.phi,
            self.method,
            self.outer,
            rng=self.choices.rng,
            betas=self.optimization.betas,
            total_steps=self.total_steps // period,
        )
        if self._restored is not None:
            self.outer_level.load_state_dict(self._restored)
            self._restored = None
        return super().configure_optimizers()

    def configure_callbacks(self) -> list[Any]:
        """Return no callbacks; reject trainer settings that act on automatic optimization only."""
        if self._fits:
            reject_trainer(self.trainer)
        return super().configure_callbacks()

    def on_fit_start(self) -> None:
        """Reject settings with which the hypergradient would be inexact, before the first step."""
        require_agreement(self, self.trainer.datamodule)  # type: ignore[attr-defined]
        curvature, texts_by = self.outer.curvature, self.instruction_settings.representation.by
        reject_strategy(self.trainer.strategy, curvature=curvature, reads_with_model=texts_by == "model")
        self._theta = self.theta  # now: during a sharded model's forward pass gathered copies replace its parameters
        reject_low_precision(self._theta, curvature)

    def training_step(self, batch: BilevelBatch, batch_idx: int) -> None:  # type: ignore[override]
        """Take an optimizer step of the language model, and one of the learnable instruction at every K-th batch.

        Such a batch also has rows of outer tasks.
        """
        level = self.outer_level if batch.outer is not None else None
        if level is None:
            self._step_theta(batch.inner)
        elif self.choices.outer_step == "before":
            self._step_phi(level, level.current_method(self._optimizer, self.theta), batch)
            self._step_theta(batch.inner)
        else:
            method = self._step_theta(batch.inner, then_phi=level)
            assert method is not None
            self._step_phi(level, method, batch)

    def batch_losses(self, batch: BilevelBatch) -> dict[str, Tensor]:  # type: ignore[override]
        losses = {"inner loss": self._inner_loss(batch.inner)}
        if batch.curvature is not None:
            losses["inner loss of the hypergradient"] = self._inner_loss(batch.curvature)
        if batch.outer is not None:
            losses["outer loss"] = self._outer_loss(batch.outer)
        return losses

    @property
    def _optimizer(self) -> Optimizer:
        return self.optimizers().optimizer  # type: ignore[union-attr]

    def _step_theta(self, batch: InnerBatch, *, then_phi: OuterLevel | None = None) -> Method | None:
        """Take an inner step.

        Return the method for the hypergradient that follows, with the optimizer moments of this step.
        """
        # Autocast caches low-precision copies of the weights within a step.
        clear_autocast_cache()
        theta, joint = self.theta, self.choices.clipping == "joint"
        moved: list[Parameter] = [*theta, *self.phi] if joint else theta
        with resharded(theta):
            # As in Lightning's backward: on_before_backward of callbacks ends what a process does by itself.
            loss = self.trainer.strategy.precision_plugin.pre_backward(self._inner_loss(batch), self)
            slopes = gradients(loss, moved)
            self._require_trained_adapters(slopes[: len(theta)])
            reduced = averaged(zeros_where_none(slopes, moved), self._reduce)
        length = norm(reduced)
        [mean_loss] = self._reduce([loss.detach().reshape(1)])
        self.guard.require_finite(self, {"inner loss": mean_loss, "inner gradient norm": length})
        share = clipped_share(length, largest=self.clip)
        for parameter, gradient in zip(theta, reduced, strict=False):  # phi's part only counts in the norm
            parameter.grad = gradient * share
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.step()  # type: ignore[union-attr]
        # Before the schedule sets the learning rate of another step.
        last_gradients = [parameter.grad for parameter in theta]
        if not length or not self._optimizer.param_groups[0]["lr"]:
            cause = "its learning rate is 0" if length else "its gradient is 0"
            rank_zero_warn(f"an inner step moved nothing, since {cause}: the hypergradient is that of the same theta")
        method = None if then_phi is None else then_phi.current_method(self._optimizer, theta, last_gradients)
        optimizer.zero_grad()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        self.step_loss = mean_loss[0]
        self._log({"train/inner_loss": self.step_loss}, prog_bar=True)
        self._log({"train/inner_gradient_norm": length})
        return method

    def _step_phi(self, level: OuterLevel, method: Method, batch: BilevelBatch) -> None:
        outer = batch.outer
        assert outer is not None
        if level.measures_noise:
            similarity = cosine(*(self._hypergradient(level, method, batch, half).gradients for half in halves(outer)))
            self._log_outer({"train/hypergradient_cosine": similarity})
        result = self._hypergradient(level, method, batch, outer, calibrate=level.calibrates)
        self._require_finite_outer_step(result.diagnostics)
        joint = self.choices.clipping == "joint"
        length = result.diagnostics.hypergradient_norm
        rate = level.optimizer.param_groups[0]["lr"]
        level.step(result, share=clipped_share(length, largest=self.clip) if joint else 1.0)
        for warning in outer_warnings(result.diagnostics, self.outer.gradient or self.method.name, rate=rate):
            rank_zero_warn(warning)
        self._log_phi(result, batch)

    def _require_finite_outer_step(self, diagnostics: Diagnostics) -> None:
        [outer_loss] = self._reduce([tensor([diagnostics.outer_loss], device=self.device)])
        values: dict[str, Tensor | float] = {
            "outer loss": outer_loss,
            "outer gradient norm": diagnostics.outer_gradient_norm,
            "hypergradient norm": diagnostics.hypergradient_norm,
        }
        self.guard.require_finite(self, values)

    def _hypergradient(
        self, level: OuterLevel, method: Method, batch: BilevelBatch, outer: LanguageRows, *, calibrate: bool = False
    ) -> Hypergradient:
        """Return the hypergradient of the mean loss over all replicas' outer rows."""
        inner, at_once = batch.curvature or batch.inner, self.outer.rows_at_once or len(batch.inner.rows.input_ids)
        try:
            return level.hypergradient(
                method,
                [partial(self._inner_loss, chunk) for chunk in inner_chunks(inner, at_once)],
                [partial(self._outer_loss, chunk) for chunk in outer_chunks(outer, at_once)],
                self.theta,
                self._reduce,
                calibrate=calibrate,
            )
        except FloatingPointError as error:  # from reduced values: on every replica
            self.guard.stop(self, {"hypergradient": nan}, str(error))

    def _outer_loss(self, rows: LanguageRows) -> Tensor:
        """Return this replica's part of the mean outer loss, on rows with human-written instructions instead of phi."""
        loss = target_loss(self.language_model, rows, packed=self.packed)
        return loss.sum / max(rows.step_targets, 1) * replicas(self.attached_trainer).size

    def _log_phi(self, result: Hypergradient, batch: BilevelBatch) -> None:
        [outer_loss] = self._reduce([tensor([result.diagnostics.outer_loss], device=self.device)])
        self._log({"train/outer_loss": outer_loss[0]}, prog_bar=True, logger=False)
        values = {**outer_numbers(result.diagnostics), "train/outer_step": float(self.outer_step)}
        if isinstance(self.instruction, Extractor):
            values |= self._choice_numbers(self.instruction, (batch.curvature or batch.inner).inputs)
        self._log_outer(values, outer_loss=outer_loss.item())

    @no_grad()
    def _choice_numbers(self, extractor: Extractor, inputs: InstructionInputs) -> dict[str, float]:
        """Return means over the instances of all replicas of what the extractor chooses."""
        model = model_functions(self.language_model)
        numbers = {"train/last_exemplar_share": extractor.share_of_last(inputs, model)}
        if inputs.places is not None:
            numbers["train/demonstrations"] = extractor.mean_number(inputs, model)
        [means] = self._reduce([tensor(list(numbers.values()), device=self.device)])
        return dict(zip(numbers, means.tolist(), strict=True))

    def _log_outer(self, values: Mapping[str, float], *, outer_loss: float | None = None) -> None:
        """Log values at this outer step only: Lightning would repeat them at every inner step until the next one."""
        self._log(values, logger=False)
        loss = {} if outer_loss is None else {"train/outer_loss": outer_loss}
        for logger in self.trainer.loggers:
            logger.log_metrics({**values, **loss}, step=self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.outer_level is not None:
            checkpoint[STATE] = self.outer_level.state_dict()

    def saved_tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from super().saved_tensors()
        if self.outer_level is not None:
            yield from optimizer_tensors(self.outer_level.optimizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self._fits and STATE in checkpoint:
            if self.trainer.strategy.restore_checkpoint_after_setup:  # sharded: the optimizers are there already
                assert self.outer_level is not None
                self.outer_level.load_state_dict(checkpoint[STATE])
            else:
                self._restored = checkpoint[STATE]
