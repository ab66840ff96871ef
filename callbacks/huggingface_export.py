"""Export: a folder that ``AutoModelForCausalLM.from_pretrained`` loads."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning import Callback
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info

from ..lightning_modules.adapters import merged_weights
from ..lightning_modules.instruction_tuning import InstructionTuningModule
from ..lightning_modules.prefixes import save_prefix
from ..lightning_modules.scorer import ScorerModule
from ..lightning_modules.sharding.safetensors_folder import architecture_of, empty_model, whole_tensors, write_weights
from ..lightning_modules.sharding.sharded_models import is_cut
from .preemption import Preemption
from .run_folder import run_folder


class HuggingFaceExport(Callback):
    """Write model, tokenizer and configuration as a Hugging Face folder when training ends.

    Args:
        folder: Where to write; by default ``huggingface`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if any(isinstance(callback, Preemption) and callback.preempted for callback in trainer.callbacks):  # type: ignore[attr-defined]
            return  # the run goes on elsewhere
        folder = run_folder(trainer, "huggingface", self.folder)
        if isinstance(trainer.strategy, FSDPStrategy):
            rank_zero_info("FSDP has let go of its shards: write the folder with `crosstask export CHECKPOINT FOLDER`")
            return
        model = getattr(pl_module, "model", None)
        if model is not None and any(map(is_cut, model.parameters())):
            export_sharded(pl_module, folder, writes=trainer.is_global_zero)
        elif trainer.is_global_zero:
            export_huggingface(pl_module, folder)
        rank_zero_info(f"exported to {folder}")


def export_sharded(module: L.LightningModule, folder: Path, *, writes: bool) -> None:
    """The same of a model in shards, gathered one tensor at a time; every process must call it.

    Args:
        module: Holds the model and its tokenizer.
        folder: What is written.
        writes: Whether this process writes; the others send their parts.
    """
    model: Any = module.model
    tensors = whole_tensors(model)
    if not writes:
        for _ in tensors:
            pass
        return
    write_weights(tensors, empty_model(architecture_of(model), model.config.to_dict()), folder)
    tokenizer: Any = module.tokenizer
    tokenizer.save_pretrained(folder)


def export_huggingface(module: L.LightningModule, folder: Path) -> None:
    """Save a module's model and tokenizer with transformers.

    The attention that packed the rows is a matter of training and not part of the folder; adapters are added to the
    weights they stand beside, and a prefix is written alone, as peft writes it.
    """
    if not isinstance(module, InstructionTuningModule | ScorerModule):
        raise ValueError(f"only a module around a model of transformers can be exported, got {type(module).__name__}")
    module.configure_model()
    assert module.model is not None
    assert module.tokenizer is not None
    if isinstance(module, InstructionTuningModule) and module.lora is not None:
        empty = empty_model(architecture_of(module.model), module.model.config.to_dict())
        write_weights(merged_weights(module.model), empty, folder)
    elif isinstance(module, InstructionTuningModule) and module.prefix is not None:
        assert module.pretrained is not None
        save_prefix(module.model, module.tokenizer, folder, weights=module.pretrained)
    else:
        module.model.save_pretrained(folder)
    module.tokenizer.save_pretrained(folder)
