"""Estimate of the seconds per step that devices spend on exchanging weights, gradients and activations.

It uses bandwidths only, without latencies and without overlap with computation. Collectives are rings: an all-gather or
a reduce-scatter over n devices sends (n - 1) / n of the whole from every device, and an all-reduce twice that
(Patarasuk and Yuan, 2009).
"""

from typing import NamedTuple

from transformers import PreTrainedConfig

from .memory import Layout, StepShape, compute_dtype

NODE = 8
"""Devices that are joined by the fast links of a node."""


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
    """Seconds of communication in an optimizer step.

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
    config: PreTrainedConfig,
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
        config: Configuration of the model.
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
    itemsize = compute_dtype(layout).itemsize
    activations = batches * _ring(
        _partial_sums(config, shape, recomputed) * itemsize, tensor, links.between(tensor), passes=2
    )
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


def _partial_sums(config: PreTrainedConfig, shape: StepShape, recomputed: float) -> float:
    """Return the numbers that tensor parallelism sums in a micro-batch, after each attention and feed-forward layer.

    They are summed in the forward pass, again if it is recomputed, and once for the gradients of their inputs.
    """
    passes = 2 + recomputed
    read = 2 * config.num_hidden_layers * shape.columns
    if not config.is_encoder_decoder:
        return passes * shape.rows * config.hidden_size * read
    layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
    written = 3 * (layers or config.num_hidden_layers) * (shape.target_columns or 0)
    return passes * shape.rows * config.hidden_size * (read + written)
