"""Memory and time of a training run, estimated from its configuration: ``crosstask plan``.

``memory.py`` computes the peak memory of a device from the configuration that ``crosstask fit`` would run. Time follows
from the floating-point operations of a step and from a utilization that the user states, since a plan cannot measure
it.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter
from transformers import PreTrainedConfig, PreTrainedModel

from ...datamodules.hub_names import pinned
from ...datamodules.rendering.tokenization import load_tokenizer
from ..adapters import LoRA, add_adapters
from ..attention.packable import padded_attention
from ..hyperparameters import as_group
from ..instructions.outer_methods import OuterSettings
from ..models import Network, add_embedding_dropout, build_model, language_model_class, model_config
from ..optimization import Optimization
from ..recomputation import Recomputation, recompute_blocks, recomputed_share
from .bilevel_plan import OuterPlan, bilevel_shape, outer_phases, outer_plan
from .communication import Exchange, Links, step_exchange
from .flops import training_flops
from .layouts import layout_of
from .memory import Finish, Layout, StepShape, compute_dtype, head_memory, step_phases
from .phases import Memory, Phases, deeper, most

GIB = 2**30
RECOMPUTATIONS: tuple[Recomputation, ...] = (False, "selective", 2, True)
"""What plans compare: nothing, all but matrix products and attention, every second block, every block."""
FEW_BLOCKS = 4  # with fewer, prefetched blocks and the head have another share


@dataclass(frozen=True)
class TrainingPlan:
    """Requirements of a run. Sizes are bytes on the device that holds most.

    Args:
        parameters: Parameters of the whole model.
        layout: How the model is divided over devices.
        shape: Micro-batch of a device.
        memories: Memory by what the backward pass recomputes (``RECOMPUTATIONS``, and the configuration's own).
        recomputation: The configuration's.
        logits: The part of the activations that logits and their softmax take.
        capacity: Memory of a device.
        steps: Optimizer steps.
        tokens: Tokens of a step, padding included.
        flops: Floating-point operations of a step (PaLM's definition: recomputation is not counted), with its share of
            the steps of phi.
        device_hours: Hours summed over all devices, at the stated utilization.
        exchange: Seconds of communication in a step, without steps of phi.
        compute: Seconds of computation in a step at the stated utilization.
        outer: Steps of phi in instruction optimization, which are part of memory, operations and hours.
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
    outer: OuterPlan | None = None

    @property
    def memory(self) -> Memory:
        """Peak memory with the configuration's recomputation."""
        return self.memories[self.recomputation]

    @property
    def fits(self) -> bool:
        """Whether 5% of the device stays free, for fragmentation of the allocator and for libraries."""
        return self._fits(self.memory)

    @property
    def least(self) -> Recomputation | None:
        """The recomputation with the fewest operations that fits; None if none does."""
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
) -> TrainingPlan:
    """The plan of a parsed configuration.

    Args:
        configuration: Settings of trainer, data and model, by name.
        capacity: Bytes of a device.
        rate: Floating-point operations a second of a device.
        targets: Share of a row's tokens that are targets.
        links: Bandwidths.
        devices: Number of all devices, where the configuration does not state it.

    Raises:
        ValueError: No plan exists for the module or its settings, or the rows of a step cannot be divided.
    """
    model, data, trainer = (configuration[part] for part in ("model", "data", "trainer"))
    bilevel = model["class_path"].endswith("InstructionOptimizationModule")
    if not bilevel and not model["class_path"].endswith("InstructionTuningModule"):
        raise ValueError(
            "a plan can be made for InstructionTuningModule and InstructionOptimizationModule, got "
            f"{model['class_path']}"
        )
    if trainer["max_steps"] < 1:
        raise ValueError(f"trainer.max_steps = {trainer['max_steps']}: set the number of optimizer steps")
    arguments, rows = model["init_args"], data["init_args"]["rows"]
    network, optimizer = as_group(Network, arguments["network"]), as_group(Optimization, arguments["optimizer"])
    layout = layout_of(trainer, devices=devices, fused=optimizer.fused)
    config = _config(arguments, network)
    if bilevel:
        shape, per_step = bilevel_shape(data["init_args"], layout, targets), data["init_args"]["levels"]["inner_rows"]
    else:
        shape, per_step = step_shape(rows, trainer, layout, targets=targets), rows["per_step"]
    shape = shape._replace(chunked=network.logits == "chunked" and not bilevel)  # phi's loss has whole logits
    lora = as_group(LoRA, arguments.get("lora"))
    if lora is not None and layout.kind not in ("single", "ddp"):
        raise ValueError(f"adapters can be planned under the strategies auto and ddp, got {layout.kind}")
    if lora is not None and lora.bits:
        raise ValueError("a plan counts no matrices in 4 bits: leave lora.bits out, and subtract 1.5 bytes a parameter")
    if arguments.get("prefix") is not None:
        raise ValueError("a plan can be made for training all weights or lora, not for a prefix")
    build = partial(_build, own=network.torch_dtype, lora=lora)
    finish = partial(add_embedding_dropout, probability=network.embedding_dropout)
    with torch.device("meta"):
        whole = build(config, None)
    outer = None
    if bilevel:
        settings = as_group(OuterSettings, arguments["outer"])
        counts = partial(_step_counts, shape=shape)
        outer = outer_plan(arguments, data["init_args"], settings, whole, counts)
    choice = network.gradient_checkpointing
    memories = {
        each: _peak(
            phases_of_depth(config, build, partial(_recomputing, finish=finish, choice=each), layout, shape), outer
        )
        for each in dict.fromkeys((*RECOMPUTATIONS, choice))
    }
    columns = shape.rows * (shape.target_columns or shape.targets)
    steps, tokens = trainer["max_steps"], per_step * (shape.columns + (shape.target_columns or 0))
    flops = training_flops(whole, _step_counts(per_step, shape))
    flops += outer.flops / outer.inner_steps if outer is not None else 0.0
    return TrainingPlan(
        parameters=sum(parameter.numel() for parameter in whole.parameters()),
        layout=layout,
        shape=shape,
        memories=memories,
        recomputation=choice,
        logits=head_memory(config.hidden_size, config.vocab_size, columns, layout, chunked=shape.chunked),
        capacity=capacity,
        steps=steps,
        tokens=tokens,
        flops=flops,
        device_hours=steps * flops / rate / 3600,
        exchange=step_exchange(
            config,
            layout,
            shape,
            links,
            weight_bytes=sum(parameter.numel() for parameter in whole.parameters()) * compute_dtype(layout).itemsize,
            trained_bytes=sum(_gradient_bytes(parameter, layout) for parameter in whole.parameters()),
            batches=trainer["accumulate_grad_batches"],
            recomputed=recomputed_share(choice),
        ),
        compute=flops / rate / layout.devices,
        outer=outer,
    )


def _peak(phases: Phases, outer: OuterPlan | None) -> Memory:
    """The peak of a theta step or of a step of phi, whichever is larger; phi is counted with the optimizer's state."""
    peak = most(phases)
    if outer is None:
        return peak
    peak = max(peak, most(outer_phases(phases, outer.passes.vectors)), key=lambda memory: memory.total)
    return peak._replace(optimizer=peak.optimizer + outer.instruction)


def step_shape(rows: Mapping[str, Any], trainer: Mapping[str, Any], layout: Layout, *, targets: float) -> StepShape:
    """Micro-batch of a device.

    Raises:
        ValueError: The rows of a step cannot be divided.
    """
    parts = layout.replicas * trainer["accumulate_grad_batches"]
    if rows["per_step"] % parts:
        raise ValueError(
            f"rows.per_step = {rows['per_step']} cannot be divided into {layout.replicas} replicas x "
            f"{trainer['accumulate_grad_batches']} accumulated batches"
        )
    return StepShape(
        rows=rows["per_step"] // parts,
        columns=rows["length"],
        targets=max(round(rows["length"] * targets), 1),
        target_columns=rows.get("target_length"),
        accumulated=trainer["accumulate_grad_batches"] > 1,
    )


def _config(arguments: Mapping[str, Any], network: Network) -> PreTrainedConfig:
    source = pinned(arguments["pretrained"], arguments.get("revision")) or arguments["config"]
    has_vocabulary = isinstance(source, str) or "vocab_size" in source
    vocabulary = 0 if has_vocabulary else len(load_tokenizer(arguments["tokenizer"]))
    return model_config(source, vocabulary=vocabulary, dropout=network.dropout)


def _build(config: PreTrainedConfig, dtype: torch.dtype | None, own: torch.dtype, lora: LoRA | None) -> PreTrainedModel:
    attention = padded_attention(language_model_class(config))
    model = build_model(config, weights=None, vocabulary=0, attention=attention, dtype=dtype or own)
    if lora is not None:
        add_adapters(model, lora)
    return model


def phases_of_depth(
    config: PreTrainedConfig,
    build: Callable[[PreTrainedConfig, torch.dtype | None], PreTrainedModel],
    finish: Finish,
    layout: Layout,
    shape: StepShape,
) -> Phases:
    """Memory of a deep decoder, extrapolated from two shallow ones: each block adds the same amount to a phase."""

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


def _recomputing(model: PreTrainedModel, finish: Finish, choice: Recomputation) -> None:
    finish(model)
    recompute_blocks(model, choice)


def _gradient_bytes(parameter: Parameter, layout: Layout) -> int:
    """Bytes of a gradient as it is reduced: in the compute type by DeepSpeed, else in that of the weights."""
    if not parameter.requires_grad:
        return 0
    itemsize = compute_dtype(layout).itemsize if layout.kind.startswith("zero") else parameter.dtype.itemsize
    return parameter.numel() * itemsize


def _step_counts(rows: int, shape: StepShape) -> dict[str, int]:
    """Counts of a step with full rows; a row counts as one document, which is the upper bound of attention."""
    read, written = shape.columns, shape.target_columns or 0
    return {
        "tokens": rows * read,
        "targets": rows * (written or shape.targets),
        "squares": rows * read**2,
        "written": rows * written,
        "written_squares": rows * written**2,
        "products": rows * read * written,
    }
