"""Floating-point operations of training, and peak rates of devices."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

DEVICES = {
    "A100": (312e12, ("A100",)),
    "H100": (989.5e12, ("H100 80GB HBM3", "H100 SXM")),
    "H100 PCIe": (756.5e12, ("H100 PCIe",)),
    "H100 NVL": (835.5e12, ("H100 NVL",)),
    "H200": (989.5e12, ("H200", "GH200")),
    "H200 NVL": (835.5e12, ("H200 NVL",)),
    "B200": (2250e12, ("B200",)),
    "GB200": (2500e12, ("GB200",)),
    "L40S": (362e12, ("L40S",)),
    "A10G": (70e12, ("A10G",)),
    "V100": (125e12, ("V100",)),
}
"""Dense half-precision peak in FLOP/s from NVIDIA's data sheets, and the parts of device names that identify it.

The data sheets print the peak with sparsity, twice this: H100 1,979 (SXM), 1,513 (PCIe) and 1,671 TFLOP/s (NVL), H200
1,979 and 1,671, HGX B200 36 PFLOP/s for 8 GPUs, GB200 NVL72 360 for 72; A100 (624), L40S, A10G and V100 print the dense
one beside it or alone.

These override Lightning's table, which lacks B200 and L40S, lists the peak with sparsity (twice the dense one) for
H100 NVL and H200, and does not recognize torch's name of an H200.
"""

CROSS_ATTENTION = ("EncDecAttention", "encoder_attn")
"""Names of cross attention in the T5 and BART families."""


class WeightFlops(NamedTuple):
    """Floating-point operations per token in a model's matrices, of forward and backward pass together.

    Args:
        token: Operations per input token of a decoder-only model or an encoder.
        written: Operations per decoder token of an encoder-decoder model.
        target: Operations per target in the output matrix.
    """

    token: float
    written: float
    target: float


def training_flops(model: PreTrainedModel, counts: Mapping[str, int]) -> float:
    """Return the floating-point operations of forward and backward pass over real tokens.

    These are 6 per weight and token, plus attention. A frozen weight takes 4, since it has no gradient. The output
    matrix is applied at targets only. Self-attention of a document of n tokens takes 12 * layers * width * n**2, or
    half of that if it is causal. Recomputation by activation checkpointing is not counted, as in PaLM's model FLOPs
    (arXiv 2204.02311, appendix B).

    Args:
        model: The model; its frozen parameters have ``requires_grad`` False.
        counts: ``tokens`` of the input, ``targets``, and ``squares``, the sum of the documents' squared lengths; for an
            encoder-decoder model also ``written`` by the decoder, the ``written_squares``, and ``products``, the sum of
            each document's source length times its target length.
    """
    weights, config = weight_flops(model), model.config
    operations = weights.token * counts["tokens"] + weights.target * counts["targets"]
    width, layers = attention_width(config), config.num_hidden_layers
    if not config.is_encoder_decoder:
        return operations + 6.0 * layers * width * counts["squares"]
    decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or layers
    attention = 12.0 * layers * width * counts["squares"]
    attention += decoder * width * (6.0 * counts["written_squares"] + 12.0 * counts["products"])
    return operations + weights.written * counts["written"] + attention


def weight_flops(model: PreTrainedModel) -> WeightFlops:
    """Return the floating-point operations per token that a model's weights take, without attention scores.

    These are 2 per weight for the forward pass, 2 for the gradients of its inputs, and 2 for its own gradient if it is
    trained. Embedding lookups are free. Keys and values of cross-attention are computed once per encoder token.
    """
    tables = [layer.weight for layer in model.modules() if isinstance(layer, nn.Embedding)]
    head = model.get_output_embeddings()
    apart = {id(weight) for weight in (*tables, *([head.weight] if head is not None else []))}
    decoder = model.get_decoder() if model.config.is_encoder_decoder else None
    of_decoder = {id(parameter) for parameter in decoder.parameters()} if decoder is not None else set()
    token = written = 0.0
    for name, parameter in model.named_parameters():
        if id(parameter) in apart:
            continue
        if id(parameter) in of_decoder and not _reads_the_encoder(name):
            written += _flops(parameter)
        else:
            token += _flops(parameter)
    return WeightFlops(token, written, _flops(head.weight) if head is not None else 0.0)


def attention_width(config: PreTrainedConfig) -> int:
    """Return the number of heads times the width of a head, which may differ from the width of the model."""
    heads = config.num_attention_heads
    one = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads
    return int(heads * one)


def peak_flops(device: torch.device) -> float | None:
    """Return a device's dense half-precision peak in FLOP/s, from ``DEVICES`` or else Lightning; None if unknown."""
    if device.type != "cuda":
        return None
    return named_peak(torch.cuda.get_device_name(device)) or get_available_flops(device, torch.float16)


def named_peak(device_name: str) -> float | None:
    """Return a device's peak in FLOP/s by torch's name of it; the longest matching part in ``DEVICES`` wins.

    >>> named_peak("NVIDIA H100 PCIe"), named_peak("NVIDIA H100 80GB HBM3"), named_peak("Tesla T4")
    (756500000000000.0, 989500000000000.0, None)
    """
    peaks = {part: peak for peak, parts in DEVICES.values() for part in parts if part in device_name}
    return peaks[max(peaks, key=len)] if peaks else None


def _flops(parameter: nn.Parameter) -> float:
    """Return the operations per token of a whole parameter, also if ZeRO-3 has partitioned it."""
    size = getattr(parameter, "ds_numel", None) or parameter.numel()
    return float(size * (6 if parameter.requires_grad else 4))


def _reads_the_encoder(name: str) -> bool:
    parts = set(name.split("."))
    return not parts.isdisjoint(CROSS_ATTENTION) and not parts.isdisjoint(("k", "v", "k_proj", "v_proj"))
