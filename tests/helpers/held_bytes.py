"""Callback that counts the bytes of all tensors of a process between two steps."""

import gc
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch


def held() -> int:
    """Return the bytes of the storages of all living floating-point tensors, each counted once."""
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
    """Callback that writes the bytes of tensors at the start of the third step, above those before the model was built.

    Args:
        file: Path to write to; the process's rank is appended to the name.
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
