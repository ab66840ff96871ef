"""A callback that counts the bytes of all tensors a process holds between two steps."""

import gc
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch


def held() -> int:
    """Bytes of the storages of every floating-point tensor that is alive, each once."""
    gc.collect()
    storages = {}
    for found in gc.get_objects():
        # An object's class is asked, not the object: lazy modules and proxies answer isinstance with imports.
        if issubclass(type(found), torch.Tensor) and found.is_floating_point():
            local = found.to_local() if hasattr(found, "to_local") else found
            local = getattr(local, "ds_tensor", local)
            if local.device.type == "cpu":
                storages[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
    return sum(storages.values())


class HeldBytes(L.Callback):
    """Writes what the process holds when its third step begins, above what it held before the model was built.

    Args:
        file: Where to write, with the process's rank behind its name.
    """

    def __init__(self, file: str) -> None:
        self.file, self.before = file, 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.before = held()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            found = {"held": held() - self.before}
            Path(f"{self.file}.{trainer.global_rank}").write_text(json.dumps(found))
