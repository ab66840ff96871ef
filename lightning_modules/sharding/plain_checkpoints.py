"""Reading of checkpoints as tensors and plain values only, so that a stranger's checkpoint runs no code.

A pickle names functions and their arguments, and a reader that trusts it calls them. ``torch.load`` with
``weights_only=True`` does not. But torch and DeepSpeed read three parts of a checkpoint by plain pickle: the index of a
folder of shards (``.metadata``), the values in it that are no tensors, and all files of DeepSpeed. These parts are read
here first, by readers that know a list of harmless names, and rejected before another reader opens them.
"""

import errno
import io
import pickle
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ...datamodules.folder_files import files_below

DEEPSPEED_TAG = "checkpoint"
"""Folder of a DeepSpeed checkpoint that Lightning writes; the file ``latest`` must name it."""

_METADATA = "torch.distributed.checkpoint.metadata"
_INDEX_NAMES = {
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}
"""Classes of an index of shards, and the function that looks up a tensor's layout by its name."""

_DEEPSPEED_NAMES = (
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
"""Classes in DeepSpeed's files that hold numbers and nothing else."""


def read_plain(path: Path) -> Any:
    """Return what ``torch.save`` wrote into a file, as memory-mapped tensors and plain values.

    Raises:
        ValueError: The file is incomplete, was not written by ``torch.save``, or holds other objects.
    """
    with open(path, "rb") as file:
        if file.read(2) not in (b"PK", b""):  # a zip archive begins so, however much of it was written
            raise ValueError(f"{path} is no checkpoint: it is not a file that torch.save wrote")
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_rejection(path, _foreign_names(path))) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of a file too short to be mapped
            raise
        raise ValueError(f"{path} cannot be read as a checkpoint, it may be half-written: {error}") from error


def read_index(folder: Path) -> Metadata:
    """Return the index of a sharded checkpoint, a folder that torch.distributed.checkpoint has written.

    Raises:
        ValueError: It is damaged, or names objects that such an index never holds.
    """
    path = folder / ".metadata"
    try:
        with open(path, "rb") as file:
            index = _IndexReader(file, path).load()
    except _ForeignNameError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged pickle raises errors of any kind
        raise ValueError(f"{path} cannot be read as the index of a folder of shards: {error}") from error
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise ValueError(f"{path} is not the index of a folder of shards")
    return index


def require_plain_shards(folder: Path) -> Metadata:
    """Require that a sharded checkpoint holds tensors and plain values only, so that reading it runs no code.

    Args:
        folder: Folder that torch.distributed.checkpoint has written.

    Returns:
        The index of the checkpoint.

    Raises:
        ValueError: It holds something else; names the file.
    """
    index = read_index(folder)
    for place, stored in index.storage_data.items():
        if stored.transform_descriptors:
            raise ValueError(f"{folder / stored.relative_path} is compressed or transformed, which is not supported")
        if isinstance(index.state_dict_metadata.get(place.fqn), BytesStorageMetadata):
            _require_plain_value(folder / stored.relative_path, stored.offset, stored.length)
    read_plain(folder / "meta.pt")
    return index


def require_plain_deepspeed(folder: Path) -> None:
    """Require that a DeepSpeed folder holds tensors, plain values and DeepSpeed's number classes only.

    Raises:
        ValueError: It holds something else, or sends DeepSpeed to another folder; names the file.
    """
    latest = (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
    if latest != DEEPSPEED_TAG:
        raise ValueError(f"{folder / 'latest'} must name the folder {DEEPSPEED_TAG!r}, and names {latest!r}")
    with deepspeed_names():
        for path in files_below(folder / DEEPSPEED_TAG):
            read_plain(path)


def deepspeed_names() -> AbstractContextManager[None]:
    """Return a context in which ``torch.load`` also reads DeepSpeed's number classes."""
    return safe_globals([getattr(import_module(module), name) for module, name in _DEEPSPEED_NAMES])


class _ForeignNameError(Exception):
    """Error for an index of shards that names an object outside the list."""


class _IndexReader(pickle.Unpickler):
    """Unpickler of an index of shards; a name outside the list stops it before anything is called."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _INDEX_NAMES:
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        raise _ForeignNameError(_rejection(self.path, f"{module}.{name}"))


def _require_plain_value(path: Path, offset: int, length: int) -> None:
    """Require that a value that is no tensor is plain; it is read at its offset in a shard."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read(length)
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(_rejection(path, "an object beside them")) from error
    except (OSError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a shard of a checkpoint: {error}") from error


def _foreign_names(path: Path) -> str:
    try:
        return ", ".join(sorted(get_unsafe_globals_in_checkpoint(str(path)))) or "an object beside them"
    except Exception:  # the pickle is of a kind that cannot be listed; it is rejected in any case
        return "an object beside them"


def _rejection(path: Path, names: str) -> str:
    return (
        f"{path} is not read: a checkpoint holds tensors and plain values, and this one names {names}, which could run "
        "code. If it is yours, convert it where you trust it, and save its state_dict alone"
    )
