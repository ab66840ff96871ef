"""Floating-point operations of training, and what devices can do in a second."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12, "V100": 125e12}
"""Dense half-precision peak in FLOP/s by a part of the device's name, from the vendor's data sheets (no sparsity)."""


def training_flops(model: PreTrainedModel, counts: Mapping[str, int]) -> float:
    """Floating-point operations of forward and backward over real tokens: 6 for each weight and token, and attention.

    A frozen weight takes 4: no gradient of its own.

    The vocabulary's matrix is applied at targets alone. Attention of a causal document of n tokens costs
    6 * layers * width * n**2 (half the square is masked). What gradient checkpointing computes again is not counted,
    as in PaLM's definition of model FLOPs (arXiv 2204.02311, appendix B).

    Args:
        model: As it is trained.
        counts: ``tokens``, ``targets``, and ``squares``, the sum of the documents' squared lengths.
    """
    weights, head = weight_flops(model)
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    attention = 6.0 * layers * width * counts["squares"]
    return weights * counts["tokens"] + attention + head * counts["targets"]


def weight_flops(model: PreTrainedModel) -> tuple[float, float]:
    """Operations for a token in the weights that every token meets, and for a target in the vocabulary's matrix.

    Forward, backward to the inputs, and to the weights unless they are frozen, take 2 each; tables are looked up at no
    cost.
    """
    tables = [layer.weight for layer in model.modules() if isinstance(layer, nn.Embedding)]
    head = model.get_output_embeddings().weight
    apart = {id(weight) for weight in (*tables, head)}

    def cost(parameter: nn.Parameter) -> float:
        return parameter.numel() * (6.0 if parameter.requires_grad else 4.0)

    return sum(cost(parameter) for parameter in model.parameters() if id(parameter) not in apart), cost(head)


def peak_flops(device: torch.device) -> float | None:
    """The device's peak in FLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
