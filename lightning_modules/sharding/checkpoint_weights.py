"""``crosstask export``: a checkpoint of any strategy becomes a Hugging Face folder, on one machine without a GPU."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ...datamodules.rendering.tokenization import load_tokenizer
from ..adapters import adapted_model, merged_weights, prefixed_model
from ..prefixes import save_prefix
from .checkpoints import KEY, checkpoint_extras, require_whole_checkpoint
from .safetensors_folder import empty_model, write_weights

READ_BYTES = 2**29
"""What is read from shards at a time."""

PREFIX = "model."
"""What the module's parameters are called before the model's own names."""


def export_checkpoint(
    paths: Sequence[str],
    tokenizer: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Write the model of a checkpoint as a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Weights are read and written a few at a time: a file through a memory map, a folder of shards by name. Those of
    DeepSpeed are merged one by one from its partitions. Adapters are added to the weights they were trained beside,
    which are read once more from where the training found them. A prefix is written alone, as peft writes it.

    Args:
        paths: Two: the checkpoint (a file, a folder of shards or a DeepSpeed folder), and the folder to be written,
            with safetensors, configuration and tokenizer.
        tokenizer: Hub name or folder of the tokenizer; the one of the training if left out.
        dtype: Type of the weights; their own in the checkpoint if left out.

    Raises:
        ValueError: The checkpoint is not whole, or not one of crosstask.
    """
    if isinstance(paths, str) or len(paths) != 2:
        raise ValueError(f"export takes two paths, a checkpoint and the folder to be written, got {paths}")
    checkpoint, folder = paths
    path = Path(checkpoint)
    ours = checkpoint_extras(path).get(KEY)
    if ours is None or "config" not in ours:
        raise ValueError(f"{checkpoint} does not say which model it holds: it was not written by a module of crosstask")
    like = empty_model(ours["architecture"], ours["config"])
    own = load_tokenizer(tokenizer or ours["tokenizer"], eos=False)
    weights = checkpoint_weights(path)
    if "prefix" in ours.get("adapters", {}):
        described = ours["adapters"]
        model = prefixed_model(ours["architecture"], described, dict(weights), own, checkpoint)
        save_prefix(model, own, Path(folder), weights=described["weights"])
        return
    if "adapters" in ours:
        weights = merged_weights(adapted_model(ours["architecture"], ours["adapters"], dict(weights), checkpoint))
    write_weights(weights, like, Path(folder), dtype=None if dtype is None else getattr(torch, dtype))
    own.save_pretrained(folder)


def checkpoint_weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The model's weights in a checkpoint, by the model's own names, a few in memory at a time."""
    layout = require_whole_checkpoint(path)
    found = {"file": _of_file, "shards": _of_shards, "deepspeed": _of_deepspeed}[layout](path)
    for name, tensor in found:
        name = name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")
        if name.startswith(PREFIX):  # learnable instructions stand beside the model
            yield name.removeprefix(PREFIX), tensor


def _of_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    states: dict[str, Tensor] = torch.load(path, weights_only=False, map_location="cpu", mmap=True)["state_dict"]
    yield from states.items()


def _of_shards(path: Path) -> Iterator[tuple[str, Tensor]]:
    kept, read = "state_dict.", dict[str, Any]()
    for name, found in FileSystemReader(path).read_metadata().state_dict_metadata.items():
        if name.startswith(kept) and isinstance(found, TensorStorageMetadata):
            read[name] = torch.empty(found.size, dtype=found.properties.dtype)
            if sum(tensor.nbytes for tensor in read.values()) >= READ_BYTES:
                yield from _read_shards(path, read, kept)
                read = {}
    yield from _read_shards(path, read, kept)


def _read_shards(path: Path, read: dict[str, Any], kept: str) -> Iterator[tuple[str, Tensor]]:
    """Fill tensors from a folder's shards; each call reads the folder's index, which takes longer than a tensor."""
    if read:
        dcp.load(read, storage_reader=FileSystemReader(path), no_dist=True)
    for name, tensor in read.items():
        yield name.removeprefix(kept), tensor


def _of_deepspeed(path: Path) -> Iterator[tuple[str, Tensor]]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    states = get_fp32_state_dict_from_zero_checkpoint(str(path), tag="checkpoint", lazy_mode=True)
    for name, tensor in states.items():
        yield name, tensor.contiguous()
