"""Seconds that the devices of a training step spend on exchanging weights, gradients and activations.

An estimate from bandwidths alone, without latencies, and without the share that overlaps with computation: collectives
in rings, where an all-gather or a reduce-scatter over n devices sends (n - 1) / n of the whole from every device, and
an all-reduce twice that (Patarasuk and Yuan, 2009).
"""

from typing import NamedTuple

from transformers import PreTrainedConfig

from .memory import Layout, StepShape, compute_dtype

NODE = 8
"""Devices that are joined by the fast links of a node."""


class Links(NamedTuple):
    """Bandwidths in bytes per second of one device, in one direction.

    Args:
        node: Between the devices of a node, e.g. NVLink.
        network: Between nodes.
    """

    node: float
    network: float

    def between(self, devices: int) -> float:
        """Of a group whose members are `devices` apart at most, counted from the first to the last."""
        return self.node if devices <= NODE else self.network


class Exchange(NamedTuple):
    """Seconds of communication in an optimizer step.

    Args:
        weights: To gather sharded weights.
        gradients: To reduce gradients.
        activations: To sum the partial results of tensor parallelism.
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
    """Communication of a step.

    Args:
        config: Configuration of the model.
        layout: How the model is divided over devices.
        shape: Micro-batch of a device.
        links: Bandwidths.
        weight_bytes: Weights of the whole model in the type that is gathered.
        trained_bytes: Gradients of the whole model in the type that is reduced.
        batches: Accumulated batches of a step.
        recomputed: Share of the blocks that run forward a second time.
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
    """DeepSpeed (arXiv 1910.02054): stages 1 and 2 gather weights once a step, 2 and 3 reduce each batch."""
    stage, link = int(layout.kind[-1]), links.between(layout.devices)
    gathers, reductions = 2 * batches if stage == 3 else 1, 1 if stage == 1 else batches
    return Exchange(
        gathers * _ring(weight_bytes, layout.devices, link), reductions * _ring(trained_bytes, layout.devices, link)
    )


def _ring(size: float, members: int, bandwidth: float, *, passes: int = 1) -> float:
    """Seconds of an all-gather or a reduce-scatter; an all-reduce is both."""
    return passes * size * (members - 1) / members / bandwidth


def _partial_sums(config: PreTrainedConfig, shape: StepShape, recomputed: float) -> float:
    """Numbers that tensor parallelism sums in a micro-batch: behind each attention and each feed-forward layer.

    They are summed in the forward pass, again where it is recomputed, and once for the gradients of their inputs.
    """
    passes = 2 + recomputed
    read = 2 * config.num_hidden_layers * shape.columns
    if not config.is_encoder_decoder:
        return passes * shape.rows * config.hidden_size * read
    layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
    written = 3 * (layers or config.num_hidden_layers) * (shape.target_columns or 0)
    return passes * shape.rows * config.hidden_size * (read + written)
