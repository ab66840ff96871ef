"""Checks before the first step: trainers, strategies and data that instruction optimization does not support."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch.nn import Parameter

from ...datamodules.instruction_optimization import InstructionOptimizationDataModule
from ...datamodules.packing.replicas import replicas
from ..sharding.strategies import sharding_of
from .outer_settings import CurvatureName


def require_agreement(module: Any, datamodule: InstructionOptimizationDataModule) -> None:
    """Reject a datamodule whose preset, inner steps or instruction sizes differ from the module's.

    Raises:
        ValueError: The argument that differs, a learnable instruction without outer tasks, a direct extractor whose
            exemplars differ between instances, or outer batches that cannot be halved.
    """
    settings = module.instruction_settings
    pairs = {
        "preset": (module.preset, datamodule.preset),
        "levels.inner_steps": (module.inner_steps, datamodule.levels.inner_steps),
        "instructions.length": (settings.length, datamodule.instructions.length),
        "instructions.exemplars": (settings.exemplars, datamodule.instructions.exemplars),
        "instructions.demonstrations": (settings.demonstrations, datamodule.instructions.demonstrations),
    }
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(f"{name} is {ours!r} in the module and {theirs!r} in the datamodule: give both the same")
    if module.phi and (datamodule.plan is None or not datamodule.plan.outer):
        raise ValueError(
            "a learnable instruction is trained on the loss of outer tasks, and there are none: set the "
            "datamodule's split, or instruction.kind to none or first_exemplar"
        )
    texts = datamodule.instructions
    if settings.kind == "direct_extractor" and texts.exemplars_of == "instance" and not texts.blank:
        raise ValueError(
            "a direct_extractor learns one logit for each exemplar of a task, and instructions.exemplars_of instance "
            "gives every instance other exemplars: set it to task, or instruction.kind to instance_extractor"
        )
    rows, size = datamodule.choices.outer_rows, replicas(module.trainer).size
    if module.phi and module.outer.noise_every and rows < 2 * size:
        raise ValueError(
            f"outer.noise_every compares halves of every device's outer rows, and {rows} on {size} device(s) "
            f"cannot be halved: set levels.outer_rows to {2 * size} or more, or noise_every to 0"
        )


def reject_trainer(trainer: L.Trainer) -> None:
    """Reject trainer settings that act on automatic optimization only: clipping, accumulation, loss scaling.

    Raises:
        ValueError: Such a setting is on; the message names the argument to use instead.
    """
    if trainer.gradient_clip_val:
        raise ValueError(
            f"instruction optimization clips theta and phi itself, and trainer.gradient_clip_val is "
            f"{trainer.gradient_clip_val}: leave it out, and set the model's clip"
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "a step of instruction optimization is one batch, and trainer.accumulate_grad_batches is "
            f"{trainer.accumulate_grad_batches}: leave it out, and set the datamodule's inner_rows and outer_rows; "
            "the model's outer.rows_at_once bounds the rows of a pass of the hypergradient"
        )
    if getattr(trainer.precision_plugin, "scaler", None) is not None:  # only some plugins have the attribute
        raise ValueError(
            "instruction optimization does not scale its losses, so that small gradients are lost in float16: set "
            f"trainer.precision to bf16-mixed or 32-true, got {trainer.precision}"
        )


def reject_low_precision(theta: Sequence[Parameter], curvature: CurvatureName) -> None:
    """Reject weights in float16, and in bfloat16 under finite differences, whose rounding exceeds the difference.

    Raises:
        ValueError: A weight is in half precision; the message names the settings to change.
    """
    low = next((p.dtype for p in theta if p.dtype in (torch.bfloat16, torch.float16)), None)
    if low == torch.float16:
        raise ValueError(
            "instruction optimization does not scale its losses, so that small gradients are lost in float16: set "
            "network.dtype to float32 and trainer.precision to bf16-mixed or 32-true"
        )
    if low is not None and curvature == "finite_difference":
        raise ValueError(
            f"finite differences need float32 weights, and the model's are {low}: set network.dtype to float32 and "
            "trainer.precision to bf16-mixed or 32-true, or outer.curvature to exact"
        )


def reject_strategy(strategy: Strategy, *, curvature: CurvatureName, reads_with_model: bool) -> None:
    """Reject strategies under which the hypergradient would be wrong.

    Args:
        strategy: The trainer's strategy.
        curvature: Name of the curvature backend: "finite_difference" or "exact".
        reads_with_model: Whether instances and exemplars are represented by the language model's hidden states, which
            needs a second forward pass through it.

    Raises:
        ValueError: The strategy is not supported; the message names the setting to change.
    """
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy):
        raise ValueError(
            "instruction optimization runs on one device, with DDP or with FSDP2 (strategy auto, ddp or "
            f"ShardedStrategy), got {type(strategy).__name__}"
        )
    sharding = sharding_of(strategy)
    if sharding is None:
        return
    if sharding.tensor.size() > 1:
        raise ValueError(
            "a learnable instruction is concatenated with the embedded text, which tensor parallelism cuts: set "
            "tensor_parallel_size to 1"
        )
    if curvature != "finite_difference":
        raise ValueError("second derivatives cannot pass through shards: set outer.curvature to finite_difference")
    if sharding.compute_dtype is not None:
        raise ValueError(
            f"finite differences need float32, and the blocks compute in {sharding.compute_dtype}: leave "
            "compute_dtype out"
        )
    if reads_with_model:
        raise ValueError("representation by model runs the encoder outside the model's forward: set it to own")
