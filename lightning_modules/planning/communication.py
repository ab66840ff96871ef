"""Estimate of the seconds per step that devices spend on exchanging weights, gradients and activations.

It uses bandwidths only, without latencies and without overlap with computation. Collectives are rings: an all-gather or
a reduce-scatter over n devices sends (n - 1) / n of the whole from every device, and an all-reduce twice that
(Patarasuk and Yuan, 2009).
"""

import re
from typing import NamedTuple

from transformers import PreTrainedModel

from ..sharding.sequence_parallel import stacks
from ..sharding.sharded_models import blocks
from ..sharding.tensor_parallel import tensor_parallel_plan
from .memory import Layout, StepShape, compute_dtype

NODE = 8
"""Devices that are joined by the fast links of a node."""


CROSS = re.compile(r"\.(EncDecAttention|encoder_attn|cross_attn)\.[kv](_proj)?$")
"""Names of the matrices by which a decoder reads the encoder's states."""


class Links(NamedTuple):
    """Bandwidths of one device in one direction, in bytes per second.

    Args:
        node: Between the devices of a node, e.g. NVLink.
        network: Between nodes.
    """

    node: float
    network: float

    def between(self, devices: int) -> float:
        """Return the bandwidth of a group whose members are at most `devices` apart."""
        return self.node if devices <= NODE else self.network


class Exchange(NamedTuple):
    """Seconds that every device communicates in an optimizer step.

    Args:
        weights: Seconds to gather sharded weights.
        gradients: Seconds to reduce gradients.
        activations: Seconds to sum the partial results of tensor parallelism.
    """

    weights: float = 0.0
    gradients: float = 0.0
    activations: float = 0.0

    @property
    def total(self) -> float:
        return sum(self)


def step_exchange(
    model: PreTrainedModel,
    layout: Layout,
    shape: StepShape,
    links: Links,
    *,
    weight_bytes: int,
    trained_bytes: int,
    batches: int,
    recomputed: float,
) -> Exchange:
    """Estimate the seconds that a device communicates in an optimizer step, from bytes and bandwidths alone.

    Args:
        model: The whole model; its weights are not read.
        layout: How the model is divided over devices.
        shape: Micro-batch of a device.
        links: Bandwidths of a device.
        weight_bytes: Bytes of the whole model's weights in the type that is gathered.
        trained_bytes: Bytes of the whole model's gradients in the type that is reduced.
        batches: Number of accumulated batches in a step.
        recomputed: Share of the blocks whose forward pass runs a second time.
    """
    if layout.kind == "single":
        return Exchange()
    if layout.kind == "ddp":
        return Exchange(gradients=_ring(trained_bytes, layout.devices, links.between(layout.devices), passes=2))
    if layout.kind != "sharded":
        return _zero(layout, links, weight_bytes, trained_bytes, batches)
    tensor, copies = layout.tensor_parallel, layout.copies
    shards = layout.devices // (tensor * copies)
    across_shards, across_copies = links.between(shards * tensor), links.between(layout.devices)
    reductions = 1 if layout.reduce_once else batches
    weights = 2 * batches * _ring(weight_bytes / tensor, shards, across_shards)  # for each pass
    gradients = reductions * _ring(trained_bytes / tensor, shards, across_shards)
    gradients += _ring(trained_bytes / tensor / shards, copies, across_copies, passes=2)
    summed = _summed(model, layout, shape, recomputed) if tensor > 1 else 0.0
    size = summed * compute_dtype(layout).itemsize
    activations = batches * _ring(size, tensor, links.between(tensor), passes=2)
    return Exchange(weights, gradients, activations)


def _zero(layout: Layout, links: Links, weight_bytes: float, trained_bytes: float, batches: int) -> Exchange:
    """Return the communication of DeepSpeed (arXiv 1910.02054).

    Stages 1 and 2 gather weights once a step; stages 2 and 3 reduce gradients of each batch.
    """
    stage, link = int(layout.kind[-1]), links.between(layout.devices)
    gathers, reductions = 2 * batches if stage == 3 else 1, 1 if stage == 1 else batches
    return Exchange(
        gathers * _ring(weight_bytes, layout.devices, link), reductions * _ring(trained_bytes, layout.devices, link)
    )


def _ring(size: float, members: int, bandwidth: float, *, passes: int = 1) -> float:
    """Return the seconds of an all-gather or a reduce-scatter; an all-reduce is both."""
    return passes * size * (members - 1) / members / bandwidth


def _summed(model: PreTrainedModel, layout: Layout, shape: StepShape, recomputed: float) -> float:
    """Return the numbers that tensor parallelism sums by all-reduces in the blocks, for a micro-batch.

    Each attention and feed-forward layer sums its output. Without sequence parallelism, each matrix that reads the
    layer's input (queries, keys, values ...) sums its gradient with respect to this input by itself. With it, one
    gather and one reduce-scatter, which send as much as one all-reduce, serve them all in either pass; encoder states
    that a decoder reads stay whole. Where a block is computed again, its last sum is left out.
    """
    plan, total = tensor_parallel_plan(model), 0.0
    columns = [shape.columns, shape.target_columns or 0]
    names = {module: name for name, module in model.named_modules()}
    for stack, read in zip(stacks(model, blocks(model)), columns, strict=False):
        styles = {name: style for name, style in plan.items() if name.startswith(f"{names[stack[0]]}.")}
        outputs = sum(style == "rowwise" for style in styles.values())
        matrices = sum(style == "colwise" for style in styles.values())
        of_encoder = sum(style == "colwise" and bool(CROSS.search(name)) for name, style in styles.items())
        again = outputs - (0.5 if layout.sequence_parallel else 1)
        backward = outputs if layout.sequence_parallel else matrices - of_encoder
        total += len(stack) * read * (outputs + again * recomputed + backward) + len(stack) * columns[0] * of_encoder
    return total * shape.rows * model.config.hidden_size
