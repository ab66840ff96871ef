"""Export of a module in memory as a folder that ``AutoModelForCausalLM.from_pretrained`` loads."""

from pathlib import Path
from typing import Any

import lightning as L

from ..datamodules.finite_values import require_finite_weights
from .adapters import merged_weights
from .instructed_training import InstructedTraining
from .instruction_tuning import InstructionTuningModule
from .instructions.stored_instructions import FOLDER as LEARNED
from .instructions.stored_instructions import write_instructions
from .nonfinite_stop import require_finite_everywhere
from .prefixes import save_prefix
from .scorer import ScorerModule
from .sharding.safetensors_folder import empty_copy, whole_tensors, write_weights


def export_sharded(module: L.LightningModule, folder: Path, *, writes: bool) -> None:
    """Save a sharded model with its tokenizer, gathering one tensor at a time; every process must call it.

    Args:
        module: Holds the model and its tokenizer.
        folder: Output folder.
        writes: Whether this process writes; the others only send their shards.
    """
    model: Any = module.model
    require_finite_everywhere(model.named_parameters(), "the model that would be exported")
    adapted = isinstance(module, InstructionTuningModule) and module.lora is not None
    tensors = merged_weights(model) if adapted else whole_tensors(model)
    if not writes:
        for _ in tensors:
            pass
        return
    write_weights(tensors, empty_copy(model), folder)
    tokenizer: Any = module.tokenizer
    tokenizer.save_pretrained(folder)
    _export_instructions(module, folder)


def export_huggingface(module: L.LightningModule, folder: Path) -> None:
    """Save a module's model and tokenizer with transformers.

    The attention implementation of training is not saved. Adapters are merged into the weights; a prefix is written
    alone, as peft writes it. Learned instructions go into the folder learned_instructions.

    Raises:
        ValueError: The module has no model of transformers.
    """
    if not isinstance(module, InstructionTuningModule | ScorerModule):
        raise ValueError(f"only a module around a model of transformers can be exported, got {type(module).__name__}")
    module.configure_model()
    assert module.model is not None
    assert module.tokenizer is not None
    require_finite_weights(module.model.named_parameters(), "the model that would be exported")
    if isinstance(module, InstructionTuningModule) and module.lora is not None:
        write_weights(merged_weights(module.model), empty_copy(module.model), folder)
    elif isinstance(module, InstructionTuningModule) and module.prefix is not None:
        assert module.pretrained is not None
        save_prefix(module.model, module.tokenizer, folder, weights=module.pretrained)
    else:
        module.model.save_pretrained(folder)
    module.tokenizer.save_pretrained(folder)
    _export_instructions(module, folder)


def _export_instructions(module: L.LightningModule, folder: Path) -> None:
    """Write the learned instructions of a module that has any, beside its model."""
    if isinstance(module, InstructedTraining) and module.instruction is not None and module.instruction.state_dict():
        values = module.instruction.state_dict()
        write_instructions(folder / LEARNED, module.described_instruction(), values)
