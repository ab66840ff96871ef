"""Comparison of a checkpoint's weights with a model's, by names and shapes, before a strategy loads them.

torch and DeepSpeed raise errors over many lines for other weights, or load a part of them without an error.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ...datamodules.messages import counted, some
from .plain_checkpoints import DEEPSPEED_TAG, deepspeed_names, read_index, read_plain

PREFIX = "model."
"""Beginning of the names of the model's parameters in the module."""

Shape = tuple[int, ...]


def require_fitting_weights(own: Mapping[str, Shape], stored: Mapping[str, Shape], changes: Sequence[str] = ()) -> None:
    """Reject a checkpoint whose weights are not those of the model.

    Args:
        own: Shape of each weight of the model, by name.
        stored: Shape of each weight in the checkpoint.
        changes: How the configurations of the two models differ, as phrases.

    Raises:
        ValueError: With the first names, the shapes where they differ, and the changes.
    """
    reshaped = [
        f"{name} is {list(stored[name])} there and {list(own[name])} here"
        for name in own
        if name in stored and tuple(own[name]) != tuple(stored[name])
    ]
    differences = {
        "stored alone": [_with_shape(name, stored) for name in stored if name not in own],
        "missing": [_with_shape(name, own) for name in own if name not in stored],
        "of another shape": reshaped,
    }
    named = [f"{counted(len(names), 'weight')} {how} ({some(names)})" for how, names in differences.items() if names]
    tied = [change for change in changes if change.startswith("config.tie_word_embeddings ")]
    if named or tied:
        raise ValueError(
            f"the checkpoint is of a model with other weights: {'; '.join([*named, *changes])}. Give the model's "
            "configuration as it was"
        )


def require_fitting_shards(path: Path, module: nn.Module, *, trained_alone: bool = False) -> None:
    """Reject a checkpoint whose weights are not those of a sharded model.

    Args:
        path: Checkpoint of any layout; a whole one.
        module: The LightningModule with the built model.
        trained_alone: Whether the checkpoint omits frozen weights.

    Raises:
        ValueError: With the names and shapes that differ.
    """
    stored = _of_model(stored_shapes(path))
    if not stored:  # DeepSpeed without ZeRO lists no shapes
        return
    weights = getattr(module, "weights_before_wrapping", None) or whole_weights(module, trained_alone=trained_alone)
    own: dict[str, Shape] = {}
    for names, shape in weights:
        # A tied table is stored under one of its names, or under all.
        own |= dict.fromkeys([name for name in names if name in stored] or names[:1], shape)
    own = _of_model(own)
    buffers = {_plain_name(name) for name, _ in module.named_buffers()}
    compared = own if trained_alone else stored.keys() - buffers
    require_fitting_weights(own, {name: shape for name, shape in stored.items() if name in compared})


def whole_weights(module: nn.Module, *, trained_alone: bool = False) -> list[tuple[list[str], Shape]]:
    """Return each parameter of a module as (its names, shape of the whole parameter); a tied one has several names.

    FSDP1 hides names and shapes when it wraps a module: call it before.

    Args:
        module: Module whose parameters may be sharded.
        trained_alone: Whether to leave out frozen parameters.
    """
    found: dict[int, tuple[list[str], Shape]] = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        if value.requires_grad or not trained_alone:
            names, _ = found.setdefault(id(value), ([], tuple(getattr(value, "ds_shape", value.shape))))
            names.append(_plain_name(name))
    return list(found.values())


def stored_shapes(path: Path) -> dict[str, Shape]:
    """Return the shape of every weight in a checkpoint, without reading values."""
    if path.is_file():
        return {name: tuple(value.shape) for name, value in read_plain(path)["state_dict"].items()}
    if (path / DEEPSPEED_TAG).is_dir():
        with deepspeed_names():
            states = read_plain(min((path / DEEPSPEED_TAG).glob("*model_states.pt")))
        groups = [*(states.get("param_shapes") or ()), states.get("frozen_param_shapes") or {}]
        return {name: tuple(shape) for group in groups for name, shape in group.items()}
    index = read_index(path).state_dict_metadata
    kept = weights_key(index)
    return {
        name.removeprefix(kept): tuple(entry.size)
        for name, entry in index.items()
        if name.startswith(kept) and isinstance(entry, TensorStorageMetadata)
    }


def weights_key(index: Mapping[str, object]) -> str:
    """Return the prefix by which weights are recognized among the names in the index of a folder of shards.

    >>> weights_key({"state_dict.model.lm_head.weight": 0}), weights_key({"model.lm_head.weight": 0})
    ('state_dict.', 'model.')
    """
    return "state_dict." if any(name.startswith("state_dict.") for name in index) else PREFIX


def _of_model(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    plain = {_plain_name(name): shape for name, shape in shapes.items()}
    return {name: shape for name, shape in plain.items() if name.startswith(PREFIX)}


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")


def _with_shape(name: str, shapes: Mapping[str, Shape]) -> str:
    return f"{name} {list(shapes[name])}"
