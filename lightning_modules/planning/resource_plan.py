"""Estimate of a training run's memory and time from its configuration, for ``crosstask plan``.

``planned_run.py`` reads the configuration that ``crosstask fit`` would run, and ``memory.py`` computes the peak memory
of a device. Time follows from the floating-point operations of a step and from a utilization that the user states,
since a plan cannot measure it.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter
from transformers import PreTrainedConfig, PreTrainedModel

from ..master_weights import is_low
from ..recomputation import Recomputation, recomputed_share
from .bilevel_plan import OuterPlan, outer_phases, outer_plan, pass_rows
from .communication import Exchange, Links, step_exchange
from .flops import training_flops
from .memory import Finish, Layout, StepShape, compute_dtype, head_memory, step_phases
from .phases import Memory, Phases, deeper, most
from .planned_run import PlannedRun, read_run

GIB = 2**30
RECOMPUTATIONS: tuple[Recomputation, ...] = (False, "selective", 2, True)
"""Recomputations that plans compare: none, all but matrix products and attention, every second block, every block."""
FEW_BLOCKS = 4  # with fewer, prefetched blocks and the head have another share


@dataclass(frozen=True)
class ResourcePlan:
    """Estimated memory and time of a training run.

    A step is an optimizer step of the model's weights. In instruction optimization that is an inner step; the outer
    steps, which update the instructions, are counted in `memories`, `flops`, `device_hours` and `compute` only.

    Args:
        parameters: Number of parameters of the whole model.
        layout: How the model is divided over devices.
        shape: Micro-batch of one device.
        memories: Peak memory of one device, in bytes by kind, for each choice of what the backward pass recomputes:
            ``RECOMPUTATIONS``, and the configuration's own choice. The larger peak of an inner and an outer step.
        recomputation: The configuration's choice of what the backward pass recomputes.
        logits: Bytes of logits and their softmax on one device, a part of its activations.
        capacity: Bytes of memory of one device.
        steps: Number of steps of the run.
        tokens: Tokens of a step over all devices and accumulated batches, including padding.
        flops: Floating-point operations of a step on all devices together, with the outer step divided by the number
            of inner steps. Recomputation is not counted (PaLM's definition, arXiv 2204.02311).
        device_hours: Hours of computation of the whole run at the stated utilization, summed over all devices;
            communication and casts are not counted.
        exchange: Seconds that every device communicates in a step: ``weights``, ``gradients``, ``activations`` and
            their ``total``.
        compute: Seconds that every device computes in a step at the stated utilization.
        cast: Bytes that one device reads and writes in a step to convert weights and gradients between float32 and
            half precision.
        outer: Size and costs of an outer step in instruction optimization; None for instruction tuning.
    """

    parameters: int
    layout: Layout
    shape: StepShape
    memories: Mapping[Recomputation, Memory]
    recomputation: Recomputation
    logits: int
    capacity: int
    steps: int
    tokens: int
    flops: float
    device_hours: float
    exchange: Exchange
    compute: float
    cast: int = 0
    outer: OuterPlan | None = None

    @property
    def memory(self) -> Memory:
        """Peak memory of one device, in bytes by kind, with the configuration's recomputation."""
        return self.memories[self.recomputation]

    @property
    def fits(self) -> bool:
        """Whether at least 5% of the device stays free, for fragmentation and for libraries."""
        return self._fits(self.memory)

    @property
    def least(self) -> Recomputation | None:
        """The recomputed activations with the fewest operations that fit on the device; None if none does."""
        fitting = [choice for choice, memory in self.memories.items() if self._fits(memory)]
        return min(fitting, key=lambda choice: (recomputed_share(choice), choice is not False), default=None)

    def _fits(self, memory: Memory) -> bool:
        return memory.total <= 0.95 * self.capacity


def make_plan(
    configuration: Mapping[str, Any],
    *,
    capacity: int,
    rate: float,
    targets: float,
    links: Links,
    devices: int | None = None,
) -> ResourcePlan:
    """Estimate memory, time and communication of the training that a parsed configuration describes.

    Args:
        configuration: Arguments of trainer, data and model, by name.
        capacity: Bytes of memory of a device.
        rate: Floating-point operations per second of a device, i.e. its peak times the expected utilization.
        targets: Share of a row's tokens that are targets, in [0, 1].
        links: Bandwidths of a device.
        devices: Number of all devices; None for what the configuration states.

    Raises:
        ValueError: No plan exists for the module or its settings, or the rows of a step cannot be divided.
    """
    run = read_run(configuration, targets=targets, devices=devices)
    with torch.device("meta"):
        whole = run.build(run.config, None)
    outer = None
    if run.outer is not None:
        outer = outer_plan(run.arguments, run.data, run.outer, whole, run.counts)
    flops = training_flops(whole, run.counts(run.rows))
    flops += outer.flops / outer.inner_steps if outer is not None else 0.0
    return ResourcePlan(
        parameters=sum(parameter.numel() for parameter in whole.parameters()),
        layout=run.layout,
        shape=run.shape,
        memories=_memories(run, outer),
        recomputation=run.network.gradient_checkpointing,
        logits=_logits(run),
        capacity=capacity,
        steps=run.trainer["max_steps"],
        tokens=run.rows * (run.shape.columns + (run.shape.target_columns or 0)),
        flops=flops,
        device_hours=run.trainer["max_steps"] * flops / rate / 3600,
        exchange=_exchange(run, whole, links),
        compute=flops / rate / run.layout.devices,
        cast=cast_bytes(
            whole,
            run.layout,
            batches=run.trainer["accumulate_grad_batches"],
            recomputed=recomputed_share(run.network.gradient_checkpointing),
        ),
        outer=outer,
    )


def _memories(run: PlannedRun, outer: OuterPlan | None) -> dict[Recomputation, Memory]:
    """Return the peak memory by what is recomputed: ``RECOMPUTATIONS``, and the configuration's own choice."""
    shape, choices = run.shape, dict.fromkeys((*RECOMPUTATIONS, run.network.gradient_checkpointing))
    memories = {}
    for choice in choices:
        phases = partial(phases_of_depth, run.config, run.build, partial(run.finish, recomputation=choice), run.layout)
        memories[choice] = of_theta = most(trained := phases(shape))
        if outer is not None:
            assert run.outer is not None
            rows = pass_rows(run.outer, outer, inner=shape.rows, replicas=run.layout.replicas)
            passes = trained if rows == shape.rows else phases(shape._replace(rows=rows))
            memories[choice] = _with_outer(of_theta, most(outer_phases(passes, outer.passes.vectors)), outer)
    return memories


def _logits(run: PlannedRun) -> int:
    columns = run.shape.rows * (run.shape.target_columns or run.shape.targets)
    return head_memory(run.config.hidden_size, run.config.vocab_size, columns, run.layout, chunked=run.shape.chunked)


def _exchange(run: PlannedRun, whole: PreTrainedModel, links: Links) -> Exchange:
    weights = list(whole.parameters())
    return step_exchange(
        whole,
        run.layout,
        run.shape,
        links,
        weight_bytes=sum(weight.numel() for weight in weights) * compute_dtype(run.layout).itemsize,
        trained_bytes=sum(_gradient_bytes(weight, run.layout) for weight in weights),
        batches=run.trainer["accumulate_grad_batches"],
        recomputed=recomputed_share(run.network.gradient_checkpointing),
    )


def _with_outer(of_theta: Memory, of_phi: Memory, outer: OuterPlan) -> Memory:
    """Return the larger peak of an inner step and an outer step; phi is counted with the optimizer's states."""
    peak = max(of_theta, of_phi, key=lambda memory: memory.total)
    return peak._replace(optimizer=peak.optimizer + outer.instruction)


def phases_of_depth(
    config: PreTrainedConfig,
    build: Callable[[PreTrainedConfig, torch.dtype | None], PreTrainedModel],
    finish: Finish,
    layout: Layout,
    shape: StepShape,
) -> Phases:
    """Return the peak memory of one device in each phase of a step, for a model of any depth.

    A deep decoder is extrapolated from models of 4 and 6 blocks, since each block adds the same amount.

    Args:
        config: Configuration of the model.
        build: Builds a model of a configuration, with parameters of a type or, for None, the run's.
        finish: Adds dropout and activation checkpointing to a built model.
        layout: How the model is divided over devices.
        shape: Micro-batch of a device.
    """

    def measure(config: PreTrainedConfig) -> Phases:
        return step_phases(partial(build, config), finish, layout, shape)

    depth = config.num_hidden_layers
    if config.is_encoder_decoder or depth <= 2 * FEW_BLOCKS:
        return measure(config)
    few, more = (measure(_shallow(config, count)) for count in (FEW_BLOCKS, FEW_BLOCKS + 2))
    return deeper(few, more, further=(depth - FEW_BLOCKS) / 2)


def _shallow(config: PreTrainedConfig, blocks: int) -> PreTrainedConfig:
    fewer = copy.deepcopy(config)
    fewer.num_hidden_layers = blocks
    if getattr(fewer, "layer_types", None):  # kind of attention of each block
        fewer.layer_types = fewer.layer_types[:blocks]
    return fewer


def cast_bytes(model: PreTrainedModel, layout: Layout, *, batches: int, recomputed: float) -> int:
    """Return the bytes that one device reads and writes in a step to convert weights and gradients between types.

    Each conversion reads one type and writes the other. Autocast converts float32 weights in the forward pass of every
    batch, again where blocks are recomputed, and every batch's gradients back. Master weights are rounded into the
    model once a step, and its gradients are widened once.

    Args:
        model: The model; its parameters may be on the meta device.
        layout: How the model is divided. Sharded models and DeepSpeed convert while they communicate, which is not
            counted.
        batches: Number of accumulated batches in a step.
        recomputed: Share of the blocks that the backward pass recomputes.
    """
    if layout.kind not in ("single", "ddp"):
        return 0
    pair = 4 + 2
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    masters = sum(2 * pair * parameter.numel() for parameter in trained if layout.master_weights and is_low(parameter))
    if not layout.precision.endswith("mixed"):
        return masters
    wide = [parameter for parameter in model.parameters() if parameter.dtype == torch.float32]
    passes = sum(pair * parameter.numel() * (1 + recomputed + parameter.requires_grad) for parameter in wide)
    return masters + round(batches * passes)


def _gradient_bytes(parameter: Parameter, layout: Layout) -> int:
    """Return the bytes of a gradient as it is reduced: in DeepSpeed in the compute type, else in the weights' type."""
    if not parameter.requires_grad:
        return 0
    itemsize = compute_dtype(layout).itemsize if layout.kind.startswith("zero") else parameter.dtype.itemsize
    return parameter.numel() * itemsize
