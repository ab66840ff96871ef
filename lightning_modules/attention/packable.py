"""Checks that a model computes every document of a packed row as if it were alone, and rejects models that do not.

The errors that this prevents are silent: a model whose attention bypasses the registered function, or whose positions
cannot restart, trains on packed rows without an exception, on wrong numbers.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .document_attention import IMPLEMENTATIONS
from .documents import Documents

_POSITIONS_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
)


def first_position(config: PreTrainedConfig) -> int:
    """The position id of a document's first token: 0, but ``pad_token_id + 1`` in the RoBERTa family.

    RoBERTa never trained the positions below; with positions from 0 its outputs are wrong without an error.

    >>> from transformers import BertConfig, RobertaConfig
    >>> first_position(BertConfig()), first_position(RobertaConfig())
    (0, 2)
    """
    return config.pad_token_id + 1 if config.model_type in _POSITIONS_AFTER_PADDING else 0


def require_document_attention(model: PreTrainedModel, row_length: int | None = None) -> None:
    """Check that the model computes packed documents as if each were alone.

    The model's code and configuration are inspected first. Then, if the weights are loaded (neither on the meta device
    nor sharded), the model reads two small packed rows, since no list of models is complete.

    Args:
        model: Any transformers model.
        row_length: Columns of the packed rows, compared with the model's attention window. If None, a window that is
            too short raises in the forward instead.

    Raises:
        ValueError: The model cannot read packed rows, with its class and the reason. It can still train on and
            generate from padded rows with transformers' attention.
    """
    obstacle = next(_obstacles(model, row_length), None)
    if obstacle is None and all(
        type(weight.data) is Tensor and not weight.is_meta and weight.numel() for weight in model.parameters()
    ):
        obstacle = _measured_leak(model)
    if obstacle is not None:
        raise ValueError(f"{type(model).__name__} cannot read packed rows: {obstacle}")


def _obstacles(model: PreTrainedModel, row_length: int | None) -> Iterator[str]:
    """Reasons against packed rows that the model's code and configuration show."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    for part in parts:
        # Private in transformers: no public name says whether a class has pluggable attention or a recurrent state.
        if not part._can_set_attn_implementation():
            yield f"the attention of {type(part).__name__} does not go through AttentionInterface"
        if part._is_stateful:
            yield f"{type(part).__name__} carries a recurrent state from one document to the next"
    relative = any(hasattr(module, "relative_attention_bias") for module in model.modules())
    if not relative and "position_ids" not in inspect.signature(model.forward).parameters:
        yield "positions cannot restart: its forward takes no position_ids, and they are not relative"
    if any(hasattr(module, "sinks") for module in model.modules()):
        yield "its attention sinks are not part of document attention"
    for config in {id(part.config): part.config for part in parts}.values():
        if getattr(config, "attn_logit_softcapping", None) is not None:
            yield f"its attention scores are capped (attn_logit_softcapping={config.attn_logit_softcapping})"
        layer_types = getattr(config, "layer_types", None) or ["sliding_attention", "chunked_attention"]
        for name, layer_type in _WINDOWS.items():
            size = getattr(config, name, None) if layer_type in layer_types else None
            if row_length is not None and size is not None and size < row_length:
                yield f"its {name} of {size} tokens is shorter than a row of {row_length}"
        if config._attn_implementation not in IMPLEMENTATIONS:  # no public property reads it
            yield f"build it with attn_implementation='document', got {config._attn_implementation!r}"


_WINDOWS = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}


@torch.no_grad()
def _measured_leak(model: PreTrainedModel) -> str | None:
    """Compare the rows [x x] and [y x] with x alone, for documents x and y of 4 tokens; the error, or None.

    The hidden states of the second x must equal those of x alone at the positions that the model gives it by default.
    """
    reader: Any = model.base_model  # hidden states of every column, without a head
    x, y = (reader.get_input_embeddings().weight.shape[0] // 2 + torch.arange(8)).to(model.device).split(4)

    def read(rows: Tensor, **inputs: Tensor) -> Tensor:
        offsets = torch.arange(0, rows.numel() + 1, 4, dtype=torch.int32, device=rows.device)
        if reader.config.is_encoder_decoder:
            documents = Documents(offsets, offsets)
            return reader(input_ids=rows, decoder_input_ids=rows, documents=documents, return_dict=True)[0]
        return reader(input_ids=rows, documents=Documents(offsets), return_dict=True, **inputs)[0]

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        alone = read(x[None])[0]
        position_ids = first_position(reader.config) + torch.arange(4, device=x.device).repeat(2, 2)
        packed = read(torch.stack([torch.cat([x, x]), torch.cat([y, x])]), position_ids=position_ids)
    except ValueError as error:
        return str(error)
    finally:
        for module, mode in training.items():
            module.training = mode
    after_x, after_y = packed[:, 4:]
    tolerance = (0.05 if alone.itemsize == 2 else 1e-3) * alone.norm()  # for rounding; a leak exceeds it by far
    if (after_y - after_x).norm() > tolerance:
        return "a document's hidden states changed with the document before it"
    if (after_x - alone).norm() > tolerance:
        return "a document's hidden states differ from those of the document alone"
    return None
