"""Frozen matrices in 4 bits (NF4, arXiv 2305.14314), through bitsandbytes, which is needed for this only."""

from importlib import import_module
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..datamodules.optional_packages import missing_package


def quantize_blocks(model: PreTrainedModel) -> None:
    """Store the matrices of a model's blocks in 4 bits; products are computed in the matrices' type, as before.

    Embeddings, head, biases and norms do not change. Call it before adapters are added.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    try:
        parts = import_module("bitsandbytes.nn")
    except ImportError as error:
        raise ValueError(missing_package(error) or str(error)) from error
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear or module is head:
            continue
        weight, has_bias = module.weight.data, module.bias is not None
        narrow = parts.Linear4bit(
            module.in_features,
            module.out_features,
            has_bias,
            compute_dtype=weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        narrow.weight = parts.Params4bit(weight, requires_grad=False, quant_type="nf4", module=narrow).to(weight.device)
        narrow.bias = module.bias
        # In evaluation, a CPU with AVX512-BF16 would reorder the matrix in place, which fails below 64 columns, and
        # ``dequantized`` would read it in the old order.
        narrow.support_avx512bf16_for_cpu = False
        model.set_submodule(name, narrow)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft reads it


def is_quantized(parameter: Tensor) -> bool:
    """Return whether a parameter is stored in 4 bits."""
    return type(parameter).__name__ == "Params4bit"


def dequantized(parameter: Any) -> Tensor:
    """Return the matrix of a 4-bit parameter, on the CPU, in its original type."""
    matrix: Tensor = import_module("bitsandbytes.functional").dequantize_4bit(parameter.data, parameter.quant_state)
    return matrix.to(device="cpu", dtype=parameter.quant_state.dtype)
