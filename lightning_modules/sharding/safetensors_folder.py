"""Writing of a Hugging Face folder tensor by tensor, with few weights in memory at a time."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...datamodules.finite_values import require_finite_weights
from ...datamodules.pretrained_weights import config_of_fields
from ..full_parameters import stored_buffers, whole_value
from ..models import architecture_class

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, as transformers writes them."""


def empty_model(architecture: str, config: dict[str, Any]) -> PreTrainedModel:
    """Return a model on the meta device, from the name of its class and its configuration.

    Raises:
        ValueError: transformers has no such architecture.
    """
    fields = dict(config)
    with torch.device("meta"):
        return architecture_class(architecture)(config_of_fields(fields.pop("model_type"), fields))


def empty_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of the same architecture and settings on the meta device."""
    like = empty_model(architecture_of(model), model.config.to_dict())
    if model.can_generate():
        like.generation_config = model.generation_config
    return like


def write_weights(
    tensors: Iterable[tuple[str, Tensor]],
    like: PreTrainedModel,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights as safetensors, with config.json and generation_config.json, for transformers to load.

    A tied table is written under one of its names, unless its values differ (FLAN-T5).

    Args:
        tensors: Pairs of a parameter's name in the model and its values; each is released once its file is written.
        like: A model, possibly on the meta device, with the expected names and shapes.
        folder: Output folder; created if it is missing.
        dtype: Type of the written weights; None keeps their own.
        shard_bytes: Largest size of a file; if there are several, an index is written, too.

    Raises:
        ValueError: Tensors are missing, unknown or of another shape, or the folder holds other weights already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if old := sorted(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds weights already ({old[0].name}): choose another folder, or remove them")
    with _removed_on_failure(folder):
        written, total = _write_parts(tensors, like, folder, dtype=dtype, shard_bytes=shard_bytes)
    _name_files(folder, written, len(set(written.values())), total)
    if dtype is not None:
        like.config.dtype = dtype
    like.config.architectures = [architecture_of(like)]
    like.config.save_pretrained(folder)
    if like.can_generate() and like.generation_config is not None:
        like.generation_config.save_pretrained(folder)


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove the parts in a folder if the block fails, so that it can be written again."""
    try:
        yield
    except BaseException:
        for part in folder.glob("part-*.safetensors"):
            part.unlink()
        raise


def _write_parts(
    tensors: Iterable[tuple[str, Tensor]],
    like: PreTrainedModel,
    folder: Path,
    *,
    dtype: torch.dtype | None,
    shard_bytes: int,
) -> tuple[dict[str, int], int]:
    """Write numbered parts; return the number of each tensor's part, and the bytes of all tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in like.state_dict().items()}
    tied = dict(like.all_tied_weights_keys)
    tables: dict[str, bytes] = {}
    written: dict[str, int] = {}
    shard: dict[str, Tensor] = {}
    size, total, number = 0, 0, 0
    for name, tensor in tensors:
        if name in tied and tables.get(tied[name]) == _digest(tensor):
            continue
        if name in tied.values():
            tables[name] = _digest(tensor)
        if shapes.get(name) != tuple(tensor.shape):
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, expected {shapes.get(name, 'no such name')}")
        value = (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous()
        if name in tied:  # a file of safetensors holds no memory twice
            value = value.clone()
        require_finite_weights([(name, value)], "the model that would be exported")
        if shard and size + value.nbytes > shard_bytes:
            _save(shard, folder, number)
            shard, size, number = {}, 0, number + 1
        shard[name] = value
        written[name] = number
        size += value.nbytes
        total += value.nbytes
    _save(shard, folder, number)
    if missing := [name for name in shapes if name not in written and name not in tied]:
        raise ValueError(f"{len(missing)} of {len(shapes)} weights are missing, e.g. {missing[0]}")
    return written, total


def _digest(tensor: Tensor) -> bytes:
    """Return a digest of a tensor's values."""
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().data).digest()


def _save(shard: dict[str, Tensor], folder: Path, number: int) -> None:
    save_file(shard, folder / f"part-{number:05d}.safetensors", metadata={"format": "pt"})


def _name_files(folder: Path, written: dict[str, int], count: int, total: int) -> None:
    """Rename the parts to transformers' file names, now that their number is known."""
    if count == 1:
        (folder / "part-00000.safetensors").rename(folder / "model.safetensors")
        return
    names = [f"model-{part + 1:05d}-of-{count:05d}.safetensors" for part in range(count)]
    for part, name in enumerate(names):
        (folder / f"part-{part:05d}.safetensors").rename(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[part] for name, part in written.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def architecture_of(model: nn.Module) -> str:
    """Return the name of a model's class in transformers, also after FSDP2 has replaced the class."""
    return next(base.__name__ for base in type(model).__mro__ if not base.__name__.startswith("FSDP"))


def whole_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, whole tensor) of each parameter and buffer of a sharded model, on the CPU.

    One is gathered at a time. Every process that holds a shard must iterate.
    """
    for name, parameter in model.named_parameters():
        yield name.replace("_orig_mod.", ""), whole_value(parameter)
    for name, buffer in stored_buffers(model):
        yield name.replace("_orig_mod.", ""), buffer
