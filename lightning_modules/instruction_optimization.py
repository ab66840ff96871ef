"""Differentiable instruction optimization: instructions are learned so that training with them generalizes.

    inner   theta <- Adam(d L_in(theta, phi) / d theta)     K steps, on inner tasks behind learnable instructions
    outer   phi   <- Adam(d L_out(theta_K(phi)) / d phi)    one step, on outer tasks with the instructions people wrote

Theta goes on from where it is: K is a period, and nothing is unrolled or reset. The derivative of theta with respect
to phi is the implicit one (hypergradients.py).

Source: Differentiable Instruction Optimization for Cross-Task Generalization (arXiv 2306.10098).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, clear_autocast_cache, no_grad, tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..datamodules.bilevel.bilevel_stream import BilevelBatch, InnerBatch, LanguageRows
from ..datamodules.bilevel.presets import Preset, choices
from ..datamodules.bilevel.row_chunks import halves, inner_chunks, outer_chunks
from ..datamodules.packing.replicas import replicas
from .hypergradients import Hypergradient, Method, Vector, average_over_replicas
from .hypergradients.parameter_vectors import cosine, norm
from .hypergradients.passes import averaged, gradients, resharded, zeros_where_none
from .instruction_tuning import InstructionTuningModule
from .instructions.fit_checks import reject_low_precision, reject_strategy, reject_trainer, require_agreement
from .instructions.instructed_loss import instructed_loss, reader, run_as_forward
from .instructions.instruction_kinds import InstructionSettings, Kind, Representation, build_instruction
from .instructions.learnable_instructions import Extractor, Instruction, LearnableInstruction
from .instructions.outer_level import OuterLevel
from .instructions.outer_methods import OuterSettings, outer_method
from .instructions.outer_report import outer_numbers, outer_warnings
from .optimization import clipped_share
from .target_loss import LossSum, target_loss

STATE = "instruction_optimization"
"""Where a checkpoint keeps what Lightning does not know of: phi's optimizer, its schedule and the counters."""


class InstructionOptimizationModule(InstructionTuningModule):
    """A language model (theta) trained behind learnable instructions (phi), which are trained for other tasks' sake.

    Evaluation answers prompts with the plain model: learnable instructions exist in training alone. The trainer's
    global_step counts theta's steps; phi's are ``outer_step``. One device, DDP or FSDP2; the hypergradient is that of
    the whole outer batch on any number of replicas.

    Args:
        tokenizer: Hub name or folder of the tokenizer; linked to the datamodule's.
        pretrained: Hub name or folder of the weights to start from.
        config: Start from random weights instead: a hub name or folder of a configuration, or its fields with
            model_type.
        instruction: What is learned: instructions as embeddings (embedder) or which exemplar to show (extractor),
            for each task (direct) or computed from each instance. For comparison, what is not learned: the first
            exemplar as exemplar (first_exemplar), or nothing but the text (none).
        preset: Where the paper and its released program differ, whose choice is followed (bilevel/presets.py);
            linked to the datamodule's.
        row_length: Most tokens a row holds, checked against the model's positions; linked to the datamodule's.
        total_steps: Theta steps of the whole training, for the schedules; linked to trainer.max_steps.
        inner_steps: Theta steps for one step of phi, K; linked to the datamodule's.
        instruction_length: Embeddings of an embedder's instruction, l; linked to the datamodule's.
        exemplars: Exemplars an extractor chooses among, N; linked to the datamodule's.
        representation: What an instance parameterization represents texts by.
        soft: Read the expectation of the exemplars instead of the chosen one (footnote 2 of the paper).
        learning_rate: Peak of theta's schedule.
        warmup_steps: Theta steps until the peak.
        outer: How phi moves, and how its hypergradient is computed.
        betas: Adam's decay rates of both moments, at both levels.
        weight_decay: Decay of theta's matrices; 0 makes AdamW the paper's Adam.
        clip: Largest norm of a gradient, 0 for any; what is clipped is the preset's choice.
        clipping: Whether theta is clipped alone or with phi, in place of the preset's choice.
        exemplar_padding: Whether padding behind a chosen exemplar is masked, in place of the preset's choice.
        dropout: Residual dropout in place of the model's own setting.
        attention: document, or sdpa for models that cannot be packed (with evaluation_packing one_per_row).
        gradient_checkpointing: Recompute blocks in the backward pass instead of keeping their activations.
        compile: Compile the model's blocks.
        fused: Use torch's fused AdamW for theta, faster on CUDA.
        dtype: Type of the parameters; finite differences need float32 or float64.
        seed: Decides what dropout drops.
    """

    def __init__(
        self,
        tokenizer: str,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        instruction: Kind = "direct_embedder",
        preset: Preset = "paper",
        row_length: int = 1024,
        total_steps: int = -1,
        inner_steps: int = 20,
        instruction_length: int = 64,
        exemplars: int = 0,
        representation: Representation = Representation(),  # noqa: B008 - frozen
        soft: bool = False,
        learning_rate: float = 1e-5,
        warmup_steps: int = 8000,
        outer: OuterSettings = OuterSettings(),  # noqa: B008 - frozen
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        clip: float = 1.0,
        clipping: Literal["theta", "joint"] | None = None,
        exemplar_padding: Literal["masked", "attended"] | None = None,
        dropout: float | None = None,
        attention: str = "document",
        gradient_checkpointing: bool = False,
        compile: bool = False,
        fused: bool = False,
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer,
            pretrained=pretrained,
            config=config,
            row_length=row_length,
            total_steps=total_steps,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            betas=betas,
            weight_decay=weight_decay,
            dropout=dropout,
            attention=attention,
            gradient_checkpointing=gradient_checkpointing,
            compile=compile,
            fused=fused,
            dtype=dtype,
            seed=seed,
        )
        self.automatic_optimization = False
        self.choices = choices(
            preset,
            clipping=clipping,
            exemplar_padding=exemplar_padding,
            **outer.overrides(),
        )
        if inner_steps < 1:
            raise ValueError(f"inner_steps (K) must be at least 1, got {inner_steps}")
        if not clip >= 0.0:
            raise ValueError(f"clip must be a positive norm, or 0 to clip nothing, got {clip}")
        self.method = outer_method(outer, self.choices, inner_steps=inner_steps, compiled=compile)
        self.preset, self.inner_steps, self.clip, self.outer = preset, inner_steps, clip, outer
        self.instruction_length, self.exemplars = instruction_length, exemplars
        self.instruction_settings = InstructionSettings(
            kind=instruction,
            length=instruction_length,
            exemplars=exemplars,
            soft=soft,
            attend_padding=self.choices.exemplar_padding == "attended",
            representation=representation,
        )
        self.instruction: LearnableInstruction | None = None
        self.outer_level: OuterLevel | None = None
        self._theta: list[Parameter] = []
        self._restored: dict[str, Any] | None = None

    def configure_model(self) -> None:
        """Build the model, and in training the learnable instruction; Lightning may call it again."""
        super().configure_model()
        if self.instruction is None and self._fits:
            assert self.tokenizer is not None
            self.instruction = build_instruction(
                self.instruction_settings,
                self.language_model,
                tasks=len(self.trainer.datamodule.inner_tasks),  # type: ignore[attr-defined]
                vocabulary=len(self.tokenizer),
            )

    @property
    def _fits(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    @property
    def theta(self) -> list[Parameter]:
        """The inner parameters: the language model's."""
        if self._theta:
            return self._theta
        return [parameter for parameter in self.language_model.parameters() if parameter.requires_grad]

    @property
    def phi(self) -> list[Parameter]:
        """The outer parameters: the learnable instruction's."""
        return list(self._learned.parameters())

    @property
    def outer_step(self) -> int:
        """Steps that phi has made."""
        return 0 if self.outer_level is None else self.outer_level.steps

    @property
    def _learned(self) -> LearnableInstruction:
        if self.instruction is None:
            raise RuntimeError("the learnable instruction exists in training alone: fit builds it")
        return self.instruction

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Theta's optimizer and schedule; phi's are kept apart, so that Lightning counts theta's steps alone."""
        if not self.phi:
            return super().configure_optimizers()
        if self.total_steps < self.inner_steps:
            raise ValueError(
                f"total_steps (trainer.max_steps) = {self.total_steps} are fewer than inner_steps = "
                f"{self.inner_steps}: phi would never move"
            )
        period = self.inner_steps if self.choices.outer_horizon == "outer_steps" else 1
        self.outer_level = OuterLevel(
            self.phi,
            self.method,
            self.outer,
            rng=self.choices.rng,
            betas=self.betas,
            total_steps=self.total_steps // period,
        )
        if self._restored is not None:
            self.outer_level.load_state_dict(self._restored)
            self._restored = None
        return super().configure_optimizers()

    def configure_callbacks(self) -> list[Any]:
        """No callbacks: the first hook with a trainer, before Lightning advises to let it take the steps."""
        if self._fits:
            reject_trainer(self.trainer)
        return []

    def on_fit_start(self) -> None:
        """Refuse what this training cannot be exact with, before its first step."""
        require_agreement(self, self.trainer.datamodule)  # type: ignore[attr-defined]
        curvature, texts_by = self.outer.curvature, self.instruction_settings.representation.by
        reject_strategy(self.trainer.strategy, curvature=curvature, reads_with_model=texts_by == "model")
        self._theta = self.theta  # now: while a sharded model reads, gathered copies stand in its parameters' places
        reject_low_precision(self._theta, curvature)

    def training_step(self, batch: BilevelBatch, batch_idx: int) -> None:  # type: ignore[override]
        """One step of theta, and where the batch has an outer part one of phi."""
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

    @property
    def _optimizer(self) -> Optimizer:
        return self.optimizers().optimizer  # type: ignore[union-attr]

    def _step_theta(self, batch: InnerBatch, *, then_phi: OuterLevel | None = None) -> Method | None:
        """Move theta; the method of the hypergradient that is taken next, if any, with the moments of this step."""
        # Autocast keeps its low-precision copies of the weights within a step, and phi's step may have moved none.
        clear_autocast_cache()
        theta, joint = self.theta, self.choices.clipping == "joint"
        moved: list[Parameter] = [*theta, *self.phi] if joint else theta
        with resharded(theta):
            # Callbacks are told, as Lightning does it: on_before_backward ends what a process does by itself.
            loss = self.trainer.strategy.precision_plugin.pre_backward(self._inner_loss(batch), self)
            found = averaged(zeros_where_none(gradients(loss, moved), moved), self._reduce)
        length = norm(found)
        share = clipped_share(length, largest=self.clip)
        for parameter, gradient in zip(theta, found, strict=False):  # phi's part only counts in the norm
            parameter.grad = gradient * share
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.step()  # type: ignore[union-attr]
        # Before the schedule sets the learning rate of another step.
        used = [parameter.grad for parameter in theta]
        method = None if then_phi is None else then_phi.current_method(self._optimizer, theta, used)
        optimizer.zero_grad()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        self._log({"train/inner_loss": loss.detach()}, prog_bar=True)
        self._log({"train/inner_gradient_norm": length})
        return method

    def _step_phi(self, level: OuterLevel, method: Method, batch: BilevelBatch) -> None:
        outer = batch.outer
        assert outer is not None
        if level.measures_noise:
            alike = cosine(*(self._hypergradient(level, method, batch, half).gradients for half in halves(outer)))
            self._log({"train/hypergradient_cosine": alike})
        found = self._hypergradient(level, method, batch, outer, calibrate=level.calibrates)
        joint = self.choices.clipping == "joint"
        length = found.diagnostics.hypergradient_norm
        level.step(found, share=clipped_share(length, largest=self.clip) if joint else 1.0)
        self._log_phi(found, batch)

    def _hypergradient(
        self, level: OuterLevel, method: Method, batch: BilevelBatch, outer: LanguageRows, *, calibrate: bool = False
    ) -> Hypergradient:
        """The hypergradient of the mean loss over all replicas' outer rows."""
        inner, at_once = batch.curvature or batch.inner, self.outer.rows_at_once or len(batch.inner.rows.input_ids)
        return level.hypergradient(
            method,
            [partial(self._inner_loss, chunk) for chunk in inner_chunks(inner, at_once)],
            [partial(self._outer_loss, chunk) for chunk in outer_chunks(outer, at_once)],
            self.theta,
            self._reduce,
            calibrate=calibrate,
        )

    def _inner_loss(self, batch: InnerBatch) -> Tensor:
        """This replica's part of the mean over all target tokens, scaled so that the replicas' mean is that mean."""
        model, rows = self.language_model, batch.rows
        self._check_kind(rows)

        def instructed() -> LossSum:
            instruction: Instruction = self._learned(batch.inputs, reader(model))
            return instructed_loss(model, instruction, rows)

        loss = run_as_forward(model, instructed)
        return loss.sum / max(rows.step_targets, 1) * replicas(self.trainer).size

    def _outer_loss(self, rows: LanguageRows) -> Tensor:
        """The same of rows with the instructions that people wrote: nothing of phi is in it."""
        loss = target_loss(self.language_model, rows, packed=self.packed)
        return loss.sum / max(rows.step_targets, 1) * replicas(self.trainer).size

    def _log_phi(self, found: Hypergradient, batch: BilevelBatch) -> None:
        outer_loss = tensor(found.diagnostics.outer_loss, device=self.device)
        self._log({"train/outer_loss": outer_loss}, prog_bar=True)
        self._log({**outer_numbers(found.diagnostics), "train/outer_step": float(self.outer_step)})
        for warning in outer_warnings(found.diagnostics, self.method.name):
            rank_zero_warn(warning)
        if isinstance(self.instruction, Extractor):
            with no_grad():
                share = self.instruction.share_of_last(
                    (batch.curvature or batch.inner).inputs, reader(self.language_model)
                )
            self._log({"train/last_exemplar_share": share})

    def _log(self, values: Mapping[str, Tensor | float], *, prog_bar: bool = False) -> None:
        """Log means over replicas."""
        several = replicas(self.trainer).size > 1
        self.log_dict(values, prog_bar=prog_bar, sync_dist=several, batch_size=1)

    def _reduce(self, tensors: Vector) -> Vector:
        return average_over_replicas(tensors) if replicas(self.trainer).size > 1 else tensors

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.outer_level is not None:
            checkpoint[STATE] = self.outer_level.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if not self._fits:  # phi exists in training alone
            weights = checkpoint.get("state_dict", {})
            for name in [name for name in weights if name.startswith("instruction.")]:
                del weights[name]
        elif STATE in checkpoint:
            if self.trainer.strategy.restore_checkpoint_after_setup:  # sharded: the optimizers are there already
                assert self.outer_level is not None
                self.outer_level.load_state_dict(checkpoint[STATE])
            else:
                self._restored = checkpoint[STATE]
