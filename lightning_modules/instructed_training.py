"""Base class of modules that train a language model behind instructions: build, start, describe and save them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedConfig, PreTrainedModel

from ..datamodules.bilevel.level_rows import InnerBatch
from ..datamodules.instruction_optimization import InstructionOptimizationDataModule
from ..datamodules.packing.replicas import replicas
from .hypergradients import Vector, average_over_replicas
from .instruction_tuning import InstructionTuningModule
from .instructions.instructed_loss import (
    input_embeddings,
    instructed_loss,
    model_functions,
    require_embedded_input,
    require_instruction,
    run_as_forward,
)
from .instructions.instruction_kinds import InstructionSettings, build_instruction
from .instructions.instruction_start import start_instruction
from .instructions.learnable_instructions import Instruction, LearnableInstruction, behind_head
from .instructions.stored_instructions import chosen_exemplars, described_vocabulary
from .sharding.checkpoint_weights import INSTRUCTION
from .sharding.checkpoints import KEY
from .target_loss import LossSum


class InstructedTraining(InstructionTuningModule):
    """Base class of training a language model (theta) behind an instruction (parameters phi), learned or frozen.

    The instruction is built when training starts; evaluation reads the language model alone. Checkpoints store the
    parameters and settings of the instruction, so that it can be exported and used in another training.
    """

    instruction_settings: InstructionSettings
    instruction: LearnableInstruction | None
    _theta: Sequence[Parameter] = ()

    def configure_model(self) -> None:
        """Build the model and, in ``fit``, the learnable instruction with its initial values, once."""
        super().configure_model()
        if self.instruction is None and self._fits:
            data = self._data
            self.add_instruction(len(data.inner_tasks))
            plan, settings = data.plan, self.instruction_settings
            assert plan is not None
            assert self.tokenizer is not None
            tasks = [task for task, _ in plan.inner]
            start_instruction(
                settings.start,
                self._learned,
                settings.kind,
                self.language_model,
                self.tokenizer,
                tasks,
                plan.rows.shared_exemplars(),
            )

    def _build(self, config: PreTrainedConfig, vocabulary: int, weights: str | None) -> PreTrainedModel:
        model = super()._build(config, vocabulary, weights)
        if self._fits:
            require_embedded_input(model)
        return model

    def add_instruction(self, tasks: int) -> None:
        """Build the learnable instruction with random values; the model must be built before.

        `tasks` is the number of inner tasks, those that train the language model.
        """
        assert self.tokenizer is not None
        self.instruction = build_instruction(
            self.instruction_settings, self.language_model, tasks=tasks, vocabulary=len(self.tokenizer)
        )

    @property
    def theta(self) -> list[Parameter]:
        """Inner parameters: the trainable parameters of the language model."""
        if self._theta:
            return list(self._theta)
        return [parameter for parameter in self.language_model.parameters() if parameter.requires_grad]

    @property
    def phi(self) -> list[Parameter]:
        """Outer parameters: those of the learnable instruction; empty if it is frozen."""
        return [parameter for parameter in self._learned.parameters() if parameter.requires_grad]

    @property
    def _learned(self) -> LearnableInstruction:
        if self.instruction is None:
            raise RuntimeError("the learnable instruction exists only in training: fit builds it")
        return self.instruction

    def _inner_loss(self, batch: InnerBatch) -> Tensor:
        """Return this replica's part of the mean over all target tokens.

        It is scaled so that the mean over replicas is that mean.
        """
        model, rows = self.language_model, batch.rows
        self._check_kind(rows)

        def instructed() -> LossSum:
            instruction: Instruction = self._learned(batch.inputs, model_functions(model))
            settings = self.instruction_settings
            longest = settings.length * max(settings.demonstrations, 1)
            width = int(input_embeddings(model).weight.shape[1])  # type: ignore[index]
            require_instruction(instruction, settings.kind, rows=len(batch.inputs.tasks), longest=longest, width=width)
            instruction = behind_head(instruction, batch.inputs, model_functions(model))
            return instructed_loss(model, instruction, rows)

        loss = run_as_forward(model, instructed)
        return loss.sum / max(rows.step_targets, 1) * replicas(self.attached_trainer).size

    def _log(self, values: Mapping[str, Tensor | float], *, prog_bar: bool = False, logger: bool = True) -> None:
        """Log values, averaged over replicas."""
        several = replicas(self.trainer).size > 1
        self.log_dict(values, prog_bar=prog_bar, logger=logger, sync_dist=several, batch_size=1)

    def _reduce(self, tensors: Vector) -> Vector:
        return average_over_replicas(tensors) if replicas(self.trainer).size > 1 else tensors

    def described_instruction(self) -> dict[str, Any]:
        """Return what a checkpoint states about the learned instruction, as plain values.

        These are kind, sizes, tokenizer, inner tasks and, for exemplars, the chosen ones: what is needed to build the
        instruction again or to export it.
        """
        settings, plan = self.instruction_settings, self._data.plan
        assert plan is not None
        assert self.tokenizer is not None
        described = {
            "kind": settings.kind,
            "length": settings.length,
            "exemplars": settings.exemplars,
            "demonstrations": settings.demonstrations,
            "width": int(input_embeddings(self.language_model).weight.shape[1]),  # type: ignore[index]
            "tokenizer": self.tokenizer_name,
            "tasks": self._data.inner_tasks,
            **described_vocabulary(self._learned, self.tokenizer),
        }
        chosen = chosen_exemplars(self._learned, self._data.inner_tasks, plan.rows.shared_exemplars())
        return described | ({"chosen": chosen} if chosen else {})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.instruction is not None:
            checkpoint[KEY]["instruction"] = self.described_instruction()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not self._fits:  # before the weights are compared with the module's, which has no instruction
            weights = checkpoint.get("state_dict", {})
            for name in [name for name in weights if name.startswith(INSTRUCTION)]:
                del weights[name]
        super().on_load_checkpoint(checkpoint)

    def _frozen(self) -> dict[str, Tensor]:
        """Return the frozen weights of the model; frozen instructions are in no other file than the checkpoint."""
        return {name: value for name, value in super()._frozen().items() if not name.startswith(INSTRUCTION)}

    @property
    def _data(self) -> InstructionOptimizationDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]
