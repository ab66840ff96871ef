"""Export of the trained model as a folder that ``AutoModelForCausalLM.from_pretrained`` loads."""

import lightning as L
from lightning import Callback
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info

from ..lightning_modules.huggingface_folder import export_huggingface, export_sharded
from ..lightning_modules.sharding.sharded_models import is_cut
from .preemption import Preemption
from .run_folder import run_folder


class HuggingFaceExport(Callback):
    """Write model, tokenizer and configuration as a Hugging Face folder at the end of training.

    Args:
        folder: Output folder; by default ``huggingface`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if any(isinstance(callback, Preemption) and callback.preempted for callback in trainer.callbacks):  # type: ignore[attr-defined]
            return  # the requeued run exports
        folder = run_folder(trainer, "huggingface", self.folder)
        if isinstance(trainer.strategy, FSDPStrategy):
            rank_zero_info("no export: FSDP has freed its shards; export with `crosstask export CHECKPOINT FOLDER`")
            return
        model = getattr(pl_module, "model", None)
        if model is not None and any(map(is_cut, model.parameters())):
            export_sharded(pl_module, folder, writes=trainer.is_global_zero)
        elif trainer.is_global_zero:
            export_huggingface(pl_module, folder)
        rank_zero_info(f"exported to {folder}")
