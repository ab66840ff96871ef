"""Checkpoint layouts, the model that a checkpoint belongs to, and checks before weights are read.

There are three layouts: one file (one device, DDP, FSDP with state_dict_type full), a folder of shards (FSDP2), and a
DeepSpeed folder. A wrong one is rejected before any weight is read, with the way out.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.load import _load_distributed_checkpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from transformers import PreTrainedConfig

from .checkpoint_damage import damage
from .checkpoint_replacement import PARTIAL, newest_path, partial_path, replace_whole
from .plain_checkpoints import DEEPSPEED_TAG, read_index, read_plain, require_plain_deepspeed, require_plain_shards
from .weight_shapes import require_fitting_shards

Layout = Literal["file", "shards", "deepspeed"]

KEY = "crosstask"
"""Key of crosstask's own entries in a checkpoint."""

SHARDING = (ModelParallelStrategy, FSDPStrategy, DeepSpeedStrategy)
"""Strategies that load weights by themselves; under others the module compares the weights that they return."""

_SHAPE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_decoder_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "ffn_dim",
    "d_ff",
    "d_kv",
    "vocab_size",
    "word_embed_proj_dim",
)


def model_identity(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the configuration values that determine the shapes of a model's weights."""
    sizes = {name: getattr(config, name) for name in _SHAPE_FIELDS if hasattr(config, name)}
    return {"model_type": config.model_type, **sizes}


def require_same_model(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: object) -> None:
    """Reject a checkpoint of another model.

    Raises:
        ValueError: Names every size in which the two differ.
    """
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if names:
        differences = "; ".join(f"{name} is {theirs.get(name)} there and {ours.get(name)} here" for name in names)
        raise ValueError(f"{where} is the checkpoint of another model: {differences}")


def checkpoint_layout(path: Path) -> Layout:
    """Return the layout of the checkpoint at a path.

    Raises:
        ValueError: The path does not exist, or is no complete checkpoint.
    """
    if path.is_file():
        return "file"
    if not path.exists():
        partial, newest = partial_path(path), newest_path(path)
        hint = f"; {partial.name} beside it was never finished" if partial.exists() else ""
        hint = f"; {newest.name} beside it is whole" if newest.exists() else hint
        raise ValueError(f"there is no checkpoint at {path}{hint}")
    if (path / "checkpoint").is_dir():
        return "deepspeed"
    if other := _other_folder(path):
        raise ValueError(f"{path} is no checkpoint but {other}")
    begun = path.name.startswith(PARTIAL) or any(path.glob("*.distcp"))
    if not begun and not any((path / name).exists() for name in ("meta.pt", ".metadata")):
        raise ValueError(
            f"{path} is no checkpoint: expected a file, a folder of shards (with meta.pt and .metadata) or one of "
            "DeepSpeed (with checkpoint/)"
        )
    if path.name.startswith(PARTIAL) or not ((path / "meta.pt").is_file() and (path / ".metadata").is_file()):
        raise ValueError(
            f"{path} is a folder but no whole checkpoint: its process was ended while it wrote (a folder of shards has "
            "meta.pt and .metadata, one of DeepSpeed has checkpoint/); take the checkpoint before it"
        )
    return "shards"


def _other_folder(path: Path) -> str:
    """Return what a folder is in place of a checkpoint, and the way out; empty if it is neither model nor run."""
    if (path / "config.json").is_file():
        return "a Hugging Face folder, which is loaded as `model.pretrained`"
    if found := sorted(path.glob("**/*.ckpt")):
        return f"the folder of a run: give one of its checkpoints, e.g. {found[-1]}"
    return ""


def require_whole_checkpoint(path: Path) -> Layout:
    """Reject an incomplete checkpoint, or one that holds more than tensors and plain values; return its layout.

    Every reader of checkpoints calls this first, since torch and DeepSpeed would run code that a checkpoint names.

    Raises:
        ValueError: Names what is missing, or the foreign objects.
    """
    layout = checkpoint_layout(path)
    if layout == "shards":
        needed = {info.relative_path for info in read_index(path).storage_data.values()}
        if missing := sorted(name for name in needed if not (path / name).is_file()):
            raise ValueError(f"{path} lacks {len(missing)} of its {len(needed)} shards, e.g. {missing[0]}")
        require_plain_shards(path)
    elif layout == "deepspeed":
        _require_whole_deepspeed(path)
    else:
        read_plain(path)
    return layout


def _require_whole_deepspeed(path: Path) -> None:
    states = sorted((path / "checkpoint").glob("*model_states.pt"))
    if not states or not (path / "latest").is_file():
        raise ValueError(
            f"{path} was never finished: it lacks checkpoint/*model_states.pt, or the file `latest` that DeepSpeed "
            "writes at the end; take the checkpoint before it"
        )
    parts = len(list((path / "checkpoint").glob("*optim_states.pt")))
    require_plain_deepspeed(path)
    size = read_plain(states[0])["dp_world_size"]
    if parts not in (0, size):  # none without ZeRO
        raise ValueError(f"{path} lacks parts of the optimizer: {size} processes wrote it, and {parts} files are there")


def checkpoint_extras(path: Path) -> dict[str, Any]:
    """Return everything in a checkpoint besides weights and optimizer: counters, loops, and crosstask's description."""
    layout = require_whole_checkpoint(path)
    if layout == "shards":
        return read_plain(path / "meta.pt")
    if layout == "deepspeed":
        return read_plain(min((path / DEEPSPEED_TAG).glob("*model_states.pt")))
    return read_plain(path)


def written_by(strategy: object) -> str:
    """Return the name of the strategy that a checkpoint states as its writer.

    It is the name of the class, but for a class derived from Lightning's FSDPStrategy that of FSDPStrategy.

    >>> written_by(type("OwnFSDP", (FSDPStrategy,), {})())
    'FSDPStrategy'
    """
    return FSDPStrategy.__name__ if isinstance(strategy, FSDPStrategy) else type(strategy).__name__


def require_resumable(path: Path, strategy: object) -> None:
    """Reject a checkpoint that a strategy cannot resume from.

    Raises:
        ValueError: With the way out.
    """
    layout = require_whole_checkpoint(path)
    if (layout == "deepspeed") != isinstance(strategy, DeepSpeedStrategy):
        whose = "DeepSpeed's" if layout == "deepspeed" else "not DeepSpeed's"
        raise ValueError(
            f"{path} is {whose} checkpoint, and the strategy is {type(strategy).__name__}: optimizer states do not "
            f"pass between the two. Take the weights alone: `crosstask export {path} FOLDER`, then set the model's "
            "`pretrained` to FOLDER"
        )
    written = checkpoint_extras(path).get(KEY, {}).get("strategy", written_by(strategy))
    if (written == FSDPStrategy.__name__) != isinstance(strategy, FSDPStrategy):
        raise ValueError(
            f"{path} was written by {written}, and the strategy is {type(strategy).__name__}: FSDP numbers its "
            f"optimizer states differently. Take the weights alone: `crosstask export {path} FOLDER`, then set the "
            "model's `pretrained` to FOLDER; or use ShardedStrategy (FSDP2) for both"
        )


def require_readable(path: Path, strategy: object) -> None:
    """Reject a checkpoint whose weights a strategy cannot read to validate, test or predict.

    Raises:
        ValueError: With the way out.
    """
    layout, theirs = require_whole_checkpoint(path), isinstance(strategy, DeepSpeedStrategy)
    if (layout == "deepspeed") != theirs:
        reason = f"{path} is {'' if layout == 'deepspeed' else 'not '}DeepSpeed's, and the strategy is "
        reason += type(strategy).__name__
    elif isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3:
        reason = f"DeepSpeed's ZeRO-3 reads a checkpoint only to train on, and {path} is to be evaluated"
    else:
        return
    raise ValueError(f"{reason}: `crosstask export {path} FOLDER`, then set the model's `pretrained` to FOLDER")


class AnyLayoutIO(TorchCheckpointIO):
    """Reads and writes checkpoints under one device and DDP; it also reads folders of shards, each process all of it.

    A checkpoint file is written beside the one that it replaces. Lightning would assemble it in memory and write it in
    TMPDIR, which may be small, and where a killed process leaves it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        replace_whole(Path(path), lambda beside: _write_file(checkpoint, beside), moves=True, wait=lambda: None)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if require_whole_checkpoint(Path(path)) == "file":
            return super().load_checkpoint(path, map_location, weights_only=True)
        checkpoint = _load_distributed_checkpoint(Path(path))
        states = sorted(name for name in checkpoint if name.startswith("optimizer_") and name != "optimizer_states")
        checkpoint["optimizer_states"] = [checkpoint.pop(name) for name in states]
        return checkpoint


def read_plain_values_alone(strategy: Strategy) -> None:
    """Make a strategy of Lightning's check a checkpoint before it is read, and never run code from the file.

    Checksums are compared. A sharded strategy also compares the names and shapes of its weights with the model's.
    Lightning's FSDP and DeepSpeed strategies read pickles whatever ``weights_only`` says.
    """
    load = strategy.load_checkpoint

    def load_checkpoint(checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        if "://" not in str(checkpoint_path):
            path = Path(strategy.broadcast(checkpoint_path))
            require_whole_checkpoint(path)
            require_undamaged_on_all(path, strategy)
            module = strategy.lightning_module
            # Other strategies return the weights, which the module compares in on_load_checkpoint.
            if module is not None and isinstance(strategy, SHARDING):
                require_fitting_shards(path, module, trained_alone=not module.strict_loading)
        return load(checkpoint_path, weights_only=True)

    strategy.load_checkpoint = load_checkpoint  # type: ignore[method-assign]


def require_undamaged_on_all(path: Path, strategy: Strategy) -> None:
    """Reject a checkpoint that differs from its checksums; the processes share the files of a folder.

    Every process must call it.

    Raises:
        ValueError: On every process; the one that has found the damage names the file.
    """
    problem = damage(path, getattr(strategy, "global_rank", 0), getattr(strategy, "world_size", 1))
    if not strategy.reduce_boolean_decision(problem is None):
        raise ValueError(problem or f"{path} is damaged, as another process reports: take the checkpoint before it")


def _write_file(checkpoint: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
