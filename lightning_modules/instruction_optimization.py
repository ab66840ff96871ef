"""Differentiable instruction optimization: instructions are learned so that training with them generalizes.

    inner   theta <- Adam(d L_in(theta, phi) / d theta)     K steps, on inner tasks behind learnable instructions
    outer   phi   <- Adam(d L_out(theta_K(phi)) / d phi)    one step, on outer tasks with the instructions people wrote

Theta goes on from where it is: K is a period, and nothing is unrolled or reset. The derivative of theta with respect
to phi is the implicit one (hypergradients.py).

Source: Differentiable Instruction Optimization for Cross-Task Generalization (arXiv 2306.10098).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import Parameter

from ..datamodules.bilevel.presets import Preset, choices
from ..datamodules.bilevel.row_chunks import inner_chunks, outer_chunks, take_rows
from ..datamodules.bilevel.stream import BilevelBatch, InnerBatch, LanguageRows
from ..datamodules.packing.replicas import replicas
from .hypergradients import (
    Hypergradient,
    Method,
    Reduce,
    Vector,
    average_over_replicas,
    finite_difference,
    hypergradient,
    unreduced,
)
from .hypergradients.parameter_vectors import dot, norm
from .hypergradients.passes import averaged, gathered_anew, gradients, or_zeros
from .instruction_tuning import InstructionTuningModule
from .instructions.instructed_loss import instructed_loss, reader, within_forward
from .instructions.instruction_kinds import InstructionSettings, Kind, build_instruction
from .instructions.learnable_instructions import Extractor, Instruction, LearnableInstruction
from .instructions.outer_level import OuterLevel
from .instructions.outer_methods import CURVATURES, CurvatureName, MethodName, OuterMethod, refuse_strategy
from .instructions.outer_report import outer_numbers, outer_warnings
from .losses import LossSum, target_loss

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
            candidate as exemplar (first_exemplar), or nothing but the text (none).
        preset: Where the paper and its released program differ, whose choice is followed (instruction_presets.py);
            linked to the datamodule's.
        row_length: Most tokens a row holds, checked against the model's positions; linked to the datamodule's.
        total_steps: Theta steps of the whole training, for the schedules; linked to trainer.max_steps.
        inner_steps: Theta steps for one step of phi, K; linked to the datamodule's.
        instruction_length: Embeddings of an embedder's instruction, l; linked to the datamodule's.
        candidates: Exemplars an extractor chooses among, N; linked to the datamodule's.
        tasks: Rows of a direct parameterization; the datamodule's inner tasks where it is left out.
        representation: What an instance parameterization represents texts by: own (a table V) or model (the mean of
            the model's own last states, footnote 1 of the paper).
        representation_width: Columns of V, d'.
        representation_pretrained: Hub name or folder of a model with the same tokenizer whose token embeddings V
            starts from; N(0, 1) where it is left out.
        soft: Read the expectation of the exemplars instead of the chosen one (footnote 2 of the paper).
        learning_rate: Peak of theta's schedule.
        warmup_steps: Theta steps until the peak.
        outer_learning_rate: Peak of phi's schedule; the paper has 1e-5 for the direct embedder and the instance
            extractor, 1e-6 for the instance embedder and 5e-5 for the direct extractor.
        outer_warmup_steps: Steps of phi until its peak.
        betas: Adam's decay rates of both moments, at both levels.
        weight_decay: Decay of theta's matrices; 0 makes AdamW the paper's Adam.
        outer_weight_decay: Decay of phi.
        clip: Largest norm of a gradient; what is clipped is the preset's choice.
        outer_step: When phi moves, in place of the preset's choice: before or after the K-th theta step of a period.
        method: What stands in for the inverse Hessian of the inner loss: the paper's neumann, or identity,
            conjugate_gradient, adam_preconditioned (the series of theta's own optimizer) or sama.
        hessian_products: M, in place of the preset's; a series has M + 1 terms, conjugate_gradient M iterations.
        gamma: The step of neumann's series and a factor of all of it, in place of the preset's; auto looks for the
            largest one that is safe, whenever the radius of the finite differences is looked for.
        damping: Added to the Hessian's diagonal by conjugate_gradient.
        rng: Whether the outer pass drops the same units as the inner ones, in place of the preset's choice.
        outer_horizon: Steps in which phi's learning rate falls to 0, in place of the preset's choice.
        clipping: Whether theta is clipped alone or with phi, in place of the preset's choice.
        exemplar_padding: Whether padding behind a chosen exemplar is masked, in place of the preset's choice.
        curvature: finite_difference keeps fused kernels and works on replicas; exact differentiates twice.
        rows_at_once: Rows of a pass of the outer level, whose gradients are summed; as many as a theta step has here
            where it is left out, so that the outer level needs no more memory for activations than training.
        calibrate_every: Steps of phi between two searches for the radius of the finite differences, 0 for none.
        negligible: Between these searches Hessian products are left out while they change the direction by less than
            this share, which is about what finite differences err by; 0 computes them always.
        noise_every: Steps of phi between two measurements of how alike the hypergradients of half outer batches are,
            0 for none; each costs two more hypergradients.
        dropout: Residual dropout in place of the model's own setting.
        embedding_dropout: Dropout of the token embeddings.
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
        candidates: int = 0,
        tasks: int | None = None,
        representation: Literal["own", "model"] = "own",
        representation_width: int = 512,
        representation_pretrained: str | None = None,
        soft: bool = False,
        learning_rate: float = 1e-5,
        warmup_steps: int = 8000,
        outer_learning_rate: float = 1e-5,
        outer_warmup_steps: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        outer_weight_decay: float = 0.0,
        clip: float = 1.0,
        outer_step: Literal["after", "before"] | None = None,
        method: MethodName = "neumann",
        hessian_products: int | None = None,
        gamma: float | Literal["auto"] | None = None,
        damping: float = 0.0,
        rng: Literal["same", "independent"] | None = None,
        outer_horizon: Literal["outer_steps", "inner_steps"] | None = None,
        clipping: Literal["theta", "joint"] | None = None,
        exemplar_padding: Literal["masked", "attended"] | None = None,
        curvature: CurvatureName = "finite_difference",
        rows_at_once: int | None = None,
        calibrate_every: int = 200,
        negligible: float = 1e-3,
        noise_every: int = 0,
        dropout: float | None = None,
        embedding_dropout: float = 0.0,
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
            embedding_dropout=embedding_dropout,
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
            outer_step=outer_step,
            hessian_products=hessian_products,
            gamma=None if gamma == "auto" else gamma,
            rng=rng,
            outer_horizon=outer_horizon,
            clipping=clipping,
            exemplar_padding=exemplar_padding,
        )
        if inner_steps < 1:
            raise ValueError(f"inner_steps (K) must be at least 1, got {inner_steps}")
        self.method = OuterMethod(
            name=method,
            gamma="auto" if gamma == "auto" else self.choices.gamma,
            hessian_products=self.choices.hessian_products,
            damping=damping,
        )
        self.method.refuse(
            outer_step=self.choices.outer_step, inner_steps=inner_steps, curvature=curvature, compiled=compile
        )
        self.preset, self.inner_steps, self.clip, self.tasks = preset, inner_steps, clip, tasks
        self.instruction_length, self.candidates = instruction_length, candidates
        self.instruction_settings = InstructionSettings(
            kind=instruction,
            length=instruction_length,
            candidates=candidates,
            soft=soft,
            attend_padding=self.choices.exemplar_padding == "attended",
            representation=representation,
            representation_width=representation_width,
            representation_pretrained=representation_pretrained,
        )
        self.outer_learning_rate, self.outer_warmup_steps = outer_learning_rate, outer_warmup_steps
        self.outer_weight_decay = outer_weight_decay
        self.curvature, self.calibrate_every, self.noise_every = CURVATURES[curvature], calibrate_every, noise_every
        self.instruction: LearnableInstruction | None = None
        self._theta: list[Parameter] = []
        self.outer_step, self.radius = 0, 1e-3
        self.gamma: float | None = None  # what gamma auto found
        self.bends = True  # whether the Hessian changed the direction when it was last looked at
        self.rows_at_once, self._rows_at_once, self.negligible = rows_at_once, 1, negligible
        self.outer_level: OuterLevel | None = None
        self._restored: dict[str, Any] | None = None

    def configure_model(self) -> None:
        """Build the model, and in training the learnable instruction; Lightning may call it again."""
        super().configure_model()
        if self.instruction is None and self._fits:
            assert self.tokenizer is not None
            self.instruction = build_instruction(
                self.instruction_settings,
                self.language_model,
                tasks=self.tasks or len(self.trainer.datamodule.inner_tasks),  # type: ignore[attr-defined]
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
            learning_rate=self.outer_learning_rate,
            betas=self.betas,
            weight_decay=self.outer_weight_decay,
            warmup_steps=self.outer_warmup_steps,
            total_steps=self.total_steps // period,
        )
        if self._restored is not None:
            self.outer_level.load_state_dict(self._restored)
            self._restored = None
        return super().configure_optimizers()

    def on_fit_start(self) -> None:
        """Refuse what this training cannot be exact with, before its first step."""
        for name in ("preset", "inner_steps", "instruction_length", "candidates"):
            ours, theirs = getattr(self, name), getattr(self.trainer.datamodule, name, getattr(self, name))  # type: ignore[attr-defined]
            if ours != theirs:
                raise ValueError(
                    f"{name} is {ours!r} in the module and {theirs!r} in the datamodule: give both the same"
                )
        if self.phi and not self.trainer.datamodule.bilevel_plan.outer:  # type: ignore[attr-defined]
            raise ValueError(
                "a learnable instruction is trained on the loss of outer tasks, and there are none: set the "
                "datamodule's split, or instruction to none or first_exemplar"
            )
        refuse_strategy(
            self.trainer.strategy,
            curvature="finite_difference" if self.curvature is finite_difference else "exact",
            reads_with_model=self.instruction_settings.representation == "model",
        )
        self._theta = self.theta  # now: while a sharded model reads, gathered copies stand in its parameters' places
        low = next((p.dtype for p in self.theta if p.dtype in (torch.bfloat16, torch.float16)), None)
        if low is not None and self.curvature is finite_difference:
            raise ValueError(
                f"finite differences need float32 weights, and the model's are {low}: set trainer.precision to "
                "bf16-mixed, or curvature to exact"
            )

    def training_step(self, batch: BilevelBatch, batch_idx: int) -> None:  # type: ignore[override]
        """One step of theta, and where the batch has an outer part one of phi."""
        due = batch.outer is not None and self.outer_level is not None
        before = self.choices.outer_step == "before"
        self._rows_at_once = self.rows_at_once or len(batch.inner.rows.input_ids)
        if due and before:
            self._step_phi(batch, self._method_now())
        method = self._step_theta(batch.inner, then_phi=due and not before)
        if method is not None:
            self._step_phi(batch, method)

    def _step_theta(self, batch: InnerBatch, *, then_phi: bool) -> Method | None:
        """Move theta; the method of the hypergradient that is taken next, with the moments of this step."""
        # Autocast keeps its low-precision copies of the weights within a step, and phi's step may have moved none.
        torch.clear_autocast_cache()
        theta, joint = self.theta, self.choices.clipping == "joint"
        moved: list[Parameter] = [*theta, *self.phi] if joint else theta
        with gathered_anew(theta):
            loss = self._inner_loss(batch)
            found = averaged(or_zeros(gradients(loss, moved), moved), self._reduce)
        length = norm(found)
        share = self._clipped_share(length)
        for parameter, gradient in zip(theta, found, strict=False):  # phi's part only counts in the norm
            parameter.grad = gradient * share
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.step()  # type: ignore[union-attr]
        # Before the schedule sets the learning rate of another step.
        method = self._method_now([parameter.grad for parameter in theta]) if then_phi else None
        optimizer.zero_grad()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        self._log({"train/inner_loss": loss.detach()}, prog_bar=True)
        self._log({"train/inner_gradient_norm": length})
        return method

    def _method_now(self, gradient: Sequence[Tensor | None] = ()) -> Method:
        """The method with what it knows of theta's optimizer, whose last step was given `gradient`."""
        known = None if self._calibrates else self.gamma
        optimizer = self.optimizers().optimizer  # type: ignore[union-attr]
        bends = self.bends or self._calibrates
        return self.method.bound(gamma=known, bends=bends, optimizer=optimizer, theta=self.theta, gradient=gradient)

    @property
    def _calibrates(self) -> bool:
        """Whether radius and gamma are looked for at this step of phi."""
        return self.calibrate_every > 0 and self.outer_step % self.calibrate_every == 0

    def _step_phi(self, batch: BilevelBatch, method: Method) -> None:
        assert batch.outer is not None
        assert self.outer_level is not None
        inner = batch.curvature or batch.inner
        if self.noise_every and self.outer_step % self.noise_every == 0:
            self._log({"train/hypergradient_cosine": self._half_batch_cosine(method, inner, batch.outer)})
        calibrate = self._calibrates and self.curvature is finite_difference
        found = self._hypergradient(method, inner, batch.outer, calibrate=calibrate)
        self.radius, self.gamma = found.diagnostics.radius, found.diagnostics.gamma
        if self._calibrates:
            self.bends = self.method.changed_by(found.diagnostics.curvature_ratio) >= self.negligible
        share = self._clipped_share(found.diagnostics.hypergradient_norm) if self.choices.clipping == "joint" else 1.0
        self.outer_level.step([gradient * share for gradient in found.gradients])
        self.outer_step += 1
        self._log_phi(found, inner)

    def _hypergradient(
        self, method: Method, inner: InnerBatch, outer: LanguageRows, *, calibrate: bool = False
    ) -> Hypergradient:
        """The hypergradient of the mean loss over all replicas' outer rows."""
        return hypergradient(
            method,
            [partial(self._inner_loss, chunk) for chunk in inner_chunks(inner, self._rows_at_once)],
            [partial(self._outer_loss, chunk) for chunk in outer_chunks(outer, self._rows_at_once)],
            self.theta,
            self.phi,
            curvature=self.curvature,
            reduce=self._reduce,
            rng=self.choices.rng,
            radius=self.radius,
            calibrate=calibrate,
        )

    def _inner_loss(self, batch: InnerBatch) -> Tensor:
        """This replica's part of the mean over all target tokens, scaled so that the replicas' mean is that mean."""
        model, rows = self.language_model, batch.rows
        self._check_kind(rows)

        def instructed() -> LossSum:
            instruction: Instruction = self._learned(batch.inputs, reader(model))
            return instructed_loss(model, instruction, rows)

        loss = within_forward(model, instructed)
        return loss.sum / max(rows.step_targets, 1) * replicas(self.trainer).size

    def _outer_loss(self, rows: LanguageRows) -> Tensor:
        """The same of rows with the instructions that people wrote: nothing of phi is in it."""
        loss = target_loss(self.language_model, rows, packed=self.packed)
        return loss.sum / max(rows.step_targets, 1) * replicas(self.trainer).size

    def _half_batch_cosine(self, method: Method, inner: InnerBatch, outer: LanguageRows) -> float:
        """Cosine of the hypergradients of both halves of an outer batch: near 0, phi's steps are mostly noise."""
        rows = len(outer.input_ids)
        if rows < 2:
            raise ValueError(f"noise_every compares halves of the outer batch, and a replica's has {rows} row")
        halves = (take_rows(outer, list(half)) for half in (range(rows // 2), range(rows // 2, rows)))
        first, second = (self._hypergradient(method, inner, half).gradients for half in halves)
        return dot(first, second) / max(norm(first) * norm(second), 1e-300)

    def _log_phi(self, found: Hypergradient, inner: InnerBatch) -> None:
        outer_loss = torch.tensor(found.diagnostics.outer_loss, device=self.device)
        self._log({"train/outer_loss": outer_loss}, prog_bar=True)
        self._log({**outer_numbers(found.diagnostics), "train/outer_step": float(self.outer_step)})
        for warning in outer_warnings(found.diagnostics, self.method.name):
            rank_zero_warn(warning)
        if isinstance(self.instruction, Extractor):
            with torch.no_grad():
                share = self.instruction.share_of_last(inner.inputs, reader(self.language_model))
            self._log({"train/last_candidate_share": share})

    def _log(self, values: Mapping[str, Tensor | float], *, prog_bar: bool = False) -> None:
        """Log means over replicas."""
        several = replicas(self.trainer).size > 1
        self.log_dict(values, prog_bar=prog_bar, sync_dist=several, batch_size=1)

    def _reduce(self, tensors: Vector) -> Vector:
        reduce: Reduce = average_over_replicas if replicas(self.trainer).size > 1 else unreduced
        return reduce(tensors)

    def _clipped_share(self, length: float) -> float:
        """What a gradient of this length is multiplied by, as ``clip_grad_norm_`` does."""
        return min(1.0, self.clip / (length + 1e-6))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.outer_level is not None:
            checkpoint[STATE] = {
                **self.outer_level.state_dict(),
                "outer_step": self.outer_step,
                "radius": self.radius,
                "gamma": self.gamma,
                "bends": self.bends,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if not self._fits:  # phi exists in training alone
            weights = checkpoint.get("state_dict", {})
            for name in [name for name in weights if name.startswith("instruction.")]:
                del weights[name]
        elif STATE in checkpoint:
            state = checkpoint[STATE]
            self.outer_step, self.radius = state["outer_step"], state["radius"]
            self.gamma, self.bends = state.get("gamma"), state.get("bends", True)
            if self.trainer.strategy.restore_checkpoint_after_setup:  # sharded: the optimizers are there already
                assert self.outer_level is not None
                self.outer_level.load_state_dict(state)
            else:
                self._restored = state
