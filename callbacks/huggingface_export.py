"""Export: a folder that ``AutoModelForCausalLM.from_pretrained`` loads."""

from pathlib import Path

import lightning as L
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_info

from ..lightning_modules.instruction_tuning import InstructionTuningModule
from ..lightning_modules.scorer import ScorerModule
from .run_folder import run_folder


class HuggingFaceExport(Callback):
    """Write model, tokenizer and configuration as a Hugging Face folder when training ends.

    Args:
        folder: Where to write; by default ``huggingface`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = run_folder(trainer, "huggingface", self.folder)
        if trainer.is_global_zero:
            export_huggingface(pl_module, folder)
            rank_zero_info(f"exported to {folder}")


def export_huggingface(module: L.LightningModule, folder: Path) -> None:
    """Save a module's model and tokenizer with transformers.

    The attention that packed the rows is a matter of training and not part of the folder.
    """
    if not isinstance(module, InstructionTuningModule | ScorerModule):
        raise ValueError(f"only a module around a model of transformers can be exported, got {type(module).__name__}")
    module.configure_model()
    assert module.model is not None
    assert module.tokenizer is not None
    module.model.save_pretrained(folder)
    module.tokenizer.save_pretrained(folder)
