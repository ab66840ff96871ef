"""Lists of operations whose results the host reads, so that it waits for the device."""

import traceback
from typing import Any

import lightning as L
import torch
from lightning import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal, aten._unique2)
INDEXES = (aten.index, aten.index_put, aten.index_put_)


class HostWaits(TorchDispatchMode):
    """Context that lists operations with a number or a shape that depends on values on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        masks = packet in INDEXES and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if packet in READS or masks:
            here = [frame for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename]
            self.places.append(f"{packet} at {here[-1].filename}:{here[-1].lineno} {here[-1].line}")
        return func(*args, **(kwargs or {}))


class CountedSteps(Callback):
    """Callback that lists the waits of every batch with its optimizer step, up to the start of the next batch.

    It must be the first callback.
    """

    def __init__(self) -> None:
        self.waits: list[list[str]] = []
        self._mode: HostWaits | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._stop()
        self._mode = HostWaits()
        self._mode.__enter__()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self.waits.append(self._mode.places)
            self._mode = None
