"""The layout of a plan, from a trainer's settings."""

from typing import Any

import pytest
import torch

from crosstask.lightning_modules.planning.layouts import layout_of
from crosstask.lightning_modules.planning.memory import Layout

HALF = Layout("sharded", 2, precision="bf16-mixed", compute_dtype=torch.bfloat16)


def fsdp(sharding: str, **settings: Any) -> dict[str, Any]:
    path = "lightning.pytorch.strategies.FSDPStrategy"
    return {"class_path": path, "init_args": {"sharding_strategy": sharding, **settings}}


SEQUENCE = {"tensor_parallel_size": 2, "sequence_parallel": True}

BASE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, Layout("single", 1)),
        ({"devices": 2}, Layout("ddp", 2)),
        ({"devices": 8, "num_nodes": 4, "strategy": "ddp"}, Layout("ddp", 32)),
        (
            {"devices": 2, "strategy": "deepspeed_stage_2_offload"},
            Layout("zero_2", 2, offload=True, reduce_bucket=200_000_000),
        ),
        ({"devices": 2, "strategy": "deepspeed"}, Layout("zero_2", 2, reduce_bucket=200_000_000)),
        (
            {"devices": 2, "strategy": "deepspeed_stage_3_offload"},
            Layout("zero_3", 2, offload=True, offload_weights=True, reduce_bucket=200_000_000),
        ),
        ({"devices": 2, "strategy": "fsdp", "precision": "bf16-mixed"}, HALF),
        ({"devices": 8, "num_nodes": 4, "strategy": fsdp("HYBRID_SHARD")}, Layout("sharded", 32, copies=4)),
        ({"devices": 8, "strategy": fsdp("HYBRID_SHARD", device_mesh=[4, 2])}, Layout("sharded", 8, copies=4)),
        ({"devices": 8, "strategy": fsdp("FULL_SHARD", cpu_offload=True)}, Layout("sharded", 8, offload=True)),
        (
            {"devices": 8, "strategy": {"class_path": "ShardedStrategy", "init_args": SEQUENCE}},
            Layout("sharded", 8, tensor_parallel=2, sequence_parallel=True),
        ),
        ({"precision": 16}, Layout(precision="16-mixed")),
        ({"precision": "64"}, Layout(precision="64-true")),
    ],
)
def test_a_strategy_is_a_layout(trainer: dict[str, Any], expected: Layout) -> None:
    assert layout_of(BASE | trainer, devices=None, fused=False) == expected


@pytest.mark.parametrize(
    ("trainer", "devices", "message"),
    [
        ({"strategy": fsdp("SHARD_GRAD_OP")}, 8, "sharding_strategy SHARD_GRAD_OP: known are FULL_SHARD"),
        ({"devices": 8, "strategy": fsdp("HYBRID_SHARD")}, 12, "12 devices are not whole nodes of 8"),
        ({"precision": "transformer-engine"}, 1, "no plan can be made for the precision transformer-engine"),
        ({"strategy": fsdp("FULL_SHARD"), "precision": "64-true"}, 8, "FSDP knows no precision 64-true"),
        (
            {"strategy": {"class_path": "DeepSpeedStrategy", "init_args": {"config": "zero.json"}}},
            8,
            "no plan can be made of a DeepSpeed `config`",
        ),
        (
            {"strategy": {"class_path": "ShardedStrategy", "init_args": {"tensor_parallel_size": 3}}},
            64,
            "64 devices cannot be divided into tensor_parallel_size = 3",
        ),
        ({}, 0, "--devices must be at least 1, got 0"),
        ({}, -4, "--devices must be at least 1, got -4"),
    ],
)
def test_a_layout_that_cannot_be_planned_is_rejected(trainer: dict[str, Any], devices: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout_of(BASE | trainer, devices=devices, fused=False)


def test_a_trainer_that_states_no_layout_is_rejected() -> None:
    trainer = {"devices": "auto", "num_nodes": 1, "strategy": "xla", "precision": None, "accelerator": "gpu"}
    with pytest.raises(ValueError, match="does not state a number: give it with --devices"):
        layout_of(trainer, devices=None, fused=False)
    with pytest.raises(ValueError, match="no plan can be made for the strategy xla"):
        layout_of(trainer, devices=8, fused=False)
