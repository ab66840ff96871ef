"""Weights in a checkpoint of any strategy, read on one machine without a GPU, for ``crosstask export``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from .checkpoint_damage import require_undamaged
from .checkpoints import require_whole_checkpoint
from .plain_checkpoints import DEEPSPEED_TAG, read_index, read_plain
from .weight_shapes import PREFIX, weights_key

READ_BYTES = 2**29
"""Maximum number of bytes that are read from shards at a time."""

INSTRUCTION = "instruction."
"""Beginning of the names of a learned instruction's parameters in the module."""


def checkpoint_weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the model's weights in a checkpoint under the model's own names, with few in memory at a time."""
    for name, tensor in module_weights(path):
        if name.startswith(PREFIX):  # learnable instructions are stored beside the model
            yield name.removeprefix(PREFIX), tensor


def instruction_values(path: Path) -> dict[str, Tensor]:
    """Return the parameters of a learned instruction in a checkpoint, under its own names; empty if it has none."""
    stored = ((name.partition(INSTRUCTION), tensor) for name, tensor in module_weights(path))
    return {name: tensor for (before, beginning, name), tensor in stored if beginning and not before}


def module_weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield all weights of the LightningModule in a checkpoint, under its names, with few in memory at a time.

    Raises:
        ValueError: The checkpoint is incomplete, or differs from its checksums.
    """
    layout = require_whole_checkpoint(path)
    require_undamaged(path)
    stored = {"file": _of_file, "shards": _of_shards, "deepspeed": _of_deepspeed}[layout](path)
    for name, tensor in stored:
        yield name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", ""), tensor


def _of_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    states: dict[str, Tensor] = read_plain(path)["state_dict"]
    yield from states.items()


def _of_shards(path: Path) -> Iterator[tuple[str, Tensor]]:
    index, read = read_index(path).state_dict_metadata, dict[str, Any]()
    kept = weights_key(index)
    for name, entry in index.items():
        if name.startswith(kept) and isinstance(entry, TensorStorageMetadata):
            read[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
            if sum(tensor.nbytes for tensor in read.values()) >= READ_BYTES:
                yield from _read_shards(path, read, kept)
                read = {}
    yield from _read_shards(path, read, kept)


def _read_shards(path: Path, read: dict[str, Any], kept: str) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors from a folder of shards; a call reads the folder's index, which takes longer than a tensor."""
    if read:
        dcp.load(read, storage_reader=FileSystemReader(path), no_dist=True)
    for name, tensor in read.items():
        yield name.removeprefix(kept), tensor


def _of_deepspeed(path: Path) -> Iterator[tuple[str, Tensor]]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    states = get_fp32_state_dict_from_zero_checkpoint(str(path), tag=DEEPSPEED_TAG, lazy_mode=True)
    for name, tensor in states.items():
        yield name, tensor.contiguous()
