"""The layout of a model over devices, read from a trainer's strategy."""

from collections.abc import Mapping
from typing import Any, get_args

import torch

from .memory import Layout, Precision, require_divisible

LIGHTNING_BUCKET = 200_000_000  # default reduce_bucket_size of Lightning's DeepSpeedStrategy
SHORT_PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Lightning's short names of precisions."""


def layout_of(trainer: Mapping[str, Any], *, devices: int | None, fused: bool, master_weights: bool = False) -> Layout:
    """Return how a trainer's strategy divides a model over devices, and the trainer's precision.

    Args:
        trainer: Arguments of the trainer, by name, as a configuration has them.
        devices: Number of all devices; None for what the arguments state.
        fused: Whether the optimizer is fused, so that it needs no copy of the parameters.
        master_weights: Whether the optimizer keeps float32 copies of weights in half precision.

    Raises:
        ValueError: The number of devices is not stated or cannot be divided, or no plan exists for the strategy or one
            of its settings.
    """
    strategy = trainer["strategy"]
    name, settings = (strategy, {}) if isinstance(strategy, str) else (strategy["class_path"], strategy["init_args"])
    name = name.rpartition(".")[2].lower()
    if devices is not None and devices < 1:
        raise ValueError(f"--devices must be at least 1, got {devices}")
    count = _device_count(trainer) if devices is None else devices
    foreach = not fused and trainer["accelerator"] != "cpu"
    precision = _precision(trainer["precision"])
    layout = Layout("single", count, precision=precision, foreach=foreach, master_weights=master_weights)
    if name.startswith("deepspeed"):
        return _deepspeed(layout, name, settings)
    if name in ("fsdp", "fsdpstrategy", "fsdp_cpu_offload"):
        return _fsdp(layout, name, settings, trainer)
    if name == "shardedstrategy":
        dtype = getattr(torch, settings["compute_dtype"]) if settings.get("compute_dtype") else None
        layout = layout._replace(
            kind="sharded",
            tensor_parallel=settings.get("tensor_parallel_size", 1),
            copies=settings.get("copies", 1),
            compute_dtype=dtype,
            offload=settings.get("offload", False),
            reduce_once=settings.get("reduce_once", False),
            sequence_parallel=settings.get("sequence_parallel", False),
        )
        require_divisible(layout)
        return layout
    if name.startswith("ddp") or (name == "auto" and count > 1):
        return layout._replace(kind="ddp")
    if name in ("auto", "singledevicestrategy"):
        return layout
    raise ValueError(f"no plan can be made for the strategy {name}: known are ddp, fsdp, ShardedStrategy and deepspeed")


def _deepspeed(layout: Layout, name: str, settings: Mapping[str, Any]) -> Layout:
    """Return DeepSpeed's layout, from a name such as deepspeed_stage_3_offload or from its strategy's arguments."""
    if settings.get("config") is not None:
        raise ValueError("no plan can be made of a DeepSpeed `config`: give stage and offload_* as arguments instead")
    named = name.split("_")
    stage = settings.get("stage", 2) if settings else int([*named, "stage", "2"][2])
    return layout._replace(
        kind=f"zero_{stage}",  # type: ignore[arg-type]
        offload=bool(settings.get("offload_optimizer")) or "offload" in named,
        offload_weights=stage == 3 and (bool(settings.get("offload_parameters")) or "offload" in named),
        reduce_bucket=settings.get("reduce_bucket_size", LIGHTNING_BUCKET),
    )


def _fsdp(layout: Layout, name: str, settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> Layout:
    """Return the layout of torch's FSDP1, which computes in the trainer's half precision."""
    if layout.precision == "64-true":
        raise ValueError("FSDP knows no precision 64-true: choose 32-true")
    kind = str(settings.get("sharding_strategy") or "FULL_SHARD").upper()
    if kind not in ("FULL_SHARD", "HYBRID_SHARD"):
        raise ValueError(
            f"no plan can be made for FSDP's sharding_strategy {kind}: known are FULL_SHARD and HYBRID_SHARD; "
            "ShardedStrategy with `copies`, deepspeed_stage_2 and ddp hold more on a device"
        )
    layout = layout._replace(
        kind="sharded",
        copies=_hybrid_copies(layout.devices, settings, trainer) if kind == "HYBRID_SHARD" else 1,
        compute_dtype=None if layout.precision == "32-true" else torch.bfloat16,
        offload=bool(settings.get("cpu_offload")) or "offload" in name,
    )
    require_divisible(layout)
    return layout


def _hybrid_copies(devices: int, settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> int:
    """Return the copies of the model under HYBRID_SHARD: one per node, or by a device mesh [copies, shards]."""
    if settings.get("device_mesh"):
        return int(settings["device_mesh"][0])
    within = _device_count({**trainer, "num_nodes": 1})
    if devices % within:
        raise ValueError(f"HYBRID_SHARD keeps one copy a node, and {devices} devices are not whole nodes of {within}")
    return devices // within


def _precision(given: Any) -> Precision:
    name = "32-true" if given is None else SHORT_PRECISIONS.get(str(given), str(given))
    if name not in get_args(Precision):
        raise ValueError(f"no plan can be made for the precision {name}: known are {list(get_args(Precision))}")
    return name  # type: ignore[return-value]


def _device_count(trainer: Mapping[str, Any]) -> int:
    devices = trainer["devices"]
    if isinstance(devices, list):
        devices = len(devices)
    if not str(devices).isdigit() or int(devices) < 1:
        raise ValueError(f"trainer.devices = {devices!r} does not state a number: give it with --devices")
    return int(devices) * int(trainer["num_nodes"])
