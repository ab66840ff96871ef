"""Recurrent layers and convolutions over tokens that process each document of a packed row alone.

Linear attention (Qwen3-Next), state spaces (Granite 4) and short convolutions (LFM2) carry a state from token to token,
and no mask resets it. Some of their kernels take the documents' offsets; their fallbacks in torch do not. Instead,
documents of equal lengths are stacked, and a whole layer is called once per stack, with any kernel and without padding.
"""

# B rows, L columns, T = B * L flattened tokens, W hidden width

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..cache_names import CACHE_NAMES
from .document_offsets import Documents

RECURRENT = frozenset({"granitemoehybrid", "lfm2", "qwen3_5_text", "qwen3_next"})
"""Model types whose recurrent layers get ``documents`` with the other keywords of a forward.

Others (Mamba 2, Jamba) drop keywords on the way, and a layer that gets no documents cannot know that there are some.
"""


def read_documents_alone(model: PreTrainedModel) -> None:
    """Make a model's recurrent layers process each packed document alone, in place; names and weights do not change.

    A recurrent layer is recognized by its depthwise convolution over tokens. Models of other types than ``RECURRENT``
    do not change.
    """
    if model.config.model_type not in RECURRENT:
        return
    layer: Any
    for layer in model.modules():
        if _convolution(layer) is not None and not reads_documents_alone(layer):
            layer.forward = partial(_by_document, layer.forward)


def reads_documents_alone(module: nn.Module) -> bool:
    """Return whether a recurrent layer processes each packed document alone (see ``read_documents_alone``)."""
    forward: Any = module.forward
    return isinstance(forward, partial) and forward.func is _by_document


def leaking_convolution(model: nn.Module) -> str | None:
    """Return the name of a convolution that reads the last tokens of the previous document, or None.

    Convolutions of audio encoders are exempt.
    """
    for name, module in model.named_modules():
        convolution = _convolution(module)
        if convolution is not None and not reads_documents_alone(module) and "audio" not in name:
            return f"{name}.{convolution}"
    return None


def _convolution(module: nn.Module) -> str | None:
    """Return the name of a layer's depthwise convolution over neighbouring tokens, or None."""
    for name, part in module.named_children():
        if isinstance(part, nn.Conv1d) and part.kernel_size[0] > 1 and part.groups == part.in_channels > 1:
            return name
    return None


@torch.compiler.disable  # the lengths of documents depend on the batch
def _by_document(
    forward: Callable[..., Tensor], hidden_states: Tensor, documents: Documents | None = None, **kwargs: Any
) -> Tensor:
    """Return a layer's outputs [B, L, W], computed for each document alone and each continuation behind its prefix."""
    if documents is None:
        return forward(hidden_states, **kwargs)
    without_cache: dict[str, Any] = {name: None for name in CACHE_NAMES if name in kwargs}
    sequences = documents.sequences(hidden_states.device)
    read_TW = hidden_states.flatten(0, 1).index_select(0, sequences.order)
    outputs = [
        forward(stacked.unflatten(0, (-1, length)), **{**kwargs, **without_cache, "attention_mask": None}).flatten(0, 1)
        for stacked, length in zip(read_TW.split(sequences.sizes), sequences.lengths, strict=True)
    ]
    return torch.cat(outputs).index_select(0, sequences.restore).view(*hidden_states.shape[:2], -1)
