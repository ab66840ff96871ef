"""Callback that exports the trained model as a folder for ``AutoModelForCausalLM.from_pretrained``."""

import lightning as L
from lightning import Callback
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info

from ..datamodules.atomic_files import require_new
from ..lightning_modules.huggingface_folder import export_huggingface, export_sharded
from ..lightning_modules.sharding.sharded_models import is_sharded
from .preemption import Preemption
from .run_folder import run_folder, run_path


class HuggingFaceExport(Callback):
    """Write model, tokenizer and configuration as a Hugging Face folder at the end of training.

    The folder must be new or empty, which is checked before the first step. A resumed run overwrites its earlier
    export.

    Args:
        folder: Output folder; None for ``huggingface`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = run_path(trainer, "huggingface", self.folder)
        if trainer.ckpt_path is None:  # on every process, before any of them trains
            require_new(folder)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if any(isinstance(callback, Preemption) and callback.preempted for callback in trainer.callbacks):  # type: ignore[attr-defined]
            return  # the requeued run exports
        folder = run_folder(trainer, "huggingface", self.folder)
        if isinstance(trainer.strategy, FSDPStrategy):
            rank_zero_info("no export: FSDP has freed its shards; export with `crosstask export CHECKPOINT FOLDER`")
            return
        if trainer.ckpt_path is not None and trainer.is_global_zero:
            for weights in folder.glob("*.safetensors"):
                weights.unlink()
        model = getattr(pl_module, "model", None)
        if model is not None and any(map(is_sharded, model.parameters())):
            export_sharded(pl_module, folder, writes=trainer.is_global_zero)
        elif trainer.is_global_zero:
            export_huggingface(pl_module, folder)
        rank_zero_info(f"exported to {folder}")
