"""Checks that a model computes each document of a packed row as if it were alone; other models are rejected.

They prevent silent errors. A model whose attention bypasses the registered function, or whose positions cannot restart,
would train on packed rows without an exception, on wrong numbers.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .dense_masks import reads_documents_by_mask
from .document_attention import IMPLEMENTATIONS
from .document_offsets import Documents
from .recurrent_layers import leaking_convolution, reads_documents_alone

_POSITIONS_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
)


def first_position(config: PreTrainedConfig) -> int:
    """Return the position id of a document's first token: 0, but ``pad_token_id + 1`` in the RoBERTa family.

    RoBERTa was not trained on lower positions: with positions from 0 its outputs are wrong, without an error.

    >>> from transformers import BertConfig, RobertaConfig
    >>> first_position(BertConfig()), first_position(RobertaConfig())
    (0, 2)
    """
    return config.pad_token_id + 1 if config.model_type in _POSITIONS_AFTER_PADDING else 0


class CannotPack(ValueError):
    """Error for a model that cannot read packed rows; the message names the settings for one document per row.

    Args:
        model_class: The model's class.
        reason: Why its documents would not be computed as if each were alone, as the end of a sentence.
    """

    def __init__(self, model_class: type[PreTrainedModel], reason: str) -> None:
        super().__init__(
            f"{model_class.__name__} cannot read packed rows: {reason}. It can read one document a row: set "
            f"network.attention to {padded_attention(model_class)} and the datamodule's rows.packing to one_per_row"
        )
        self.reason = reason


def padded_attention(model_class: type[PreTrainedModel]) -> str:
    """Return transformers' attention implementation for padded rows: "sdpa" if the class supports it, else "eager"."""
    return "sdpa" if model_class._supports_sdpa else "eager"


def require_registered_attention(model_class: type[PreTrainedModel]) -> None:
    """Reject a class whose attention does not call the function registered with transformers, before a model is built.

    Raises:
        CannotPack: The class computes attention by itself, where documents would see each other.
    """
    # Private in transformers: no public name says whether a class has pluggable attention.
    if not model_class._can_set_attn_implementation():
        raise CannotPack(model_class, _own_attention(model_class))


def _own_attention(model_class: type[PreTrainedModel]) -> str:
    return f"the attention of {model_class.__name__} does not go through AttentionInterface"


def require_document_attention(model: PreTrainedModel) -> None:
    """Reject a model that does not compute each packed document as if it were alone.

    The model's code and configuration are inspected first. If the weights are loaded (neither on the meta device nor
    sharded), the model then reads two small packed rows, which also finds faults of unknown architectures.

    Args:
        model: Any transformers model.

    Raises:
        CannotPack: The model cannot read packed rows, with its class and the reason. It can still train on and
            generate from padded rows with transformers' attention.
    """
    obstacle = next(_obstacles(model), None)
    if obstacle is None and all(
        type(weight.data) is Tensor and not weight.is_meta and weight.numel() for weight in model.parameters()
    ):
        obstacle = _measured_leak(model)
    if obstacle is not None:
        raise CannotPack(type(model), obstacle)


def _obstacles(model: PreTrainedModel) -> Iterator[str]:
    """Yield the reasons against packed rows that the model's code and configuration show."""
    if reads_documents_by_mask(model):
        return
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    for part in parts:
        # Private in transformers: no public name says whether a class has pluggable attention or a recurrent state.
        if not part._can_set_attn_implementation():
            yield _own_attention(type(part))
        if part._is_stateful and not any(map(reads_documents_alone, part.modules())):
            yield f"{type(part).__name__} carries a recurrent state from one document to the next"
    if (name := leaking_convolution(model)) is not None:
        yield f"its convolution {name} reads the last tokens of the document before"
    relative = any(hasattr(module, "relative_attention_bias") for module in model.modules())
    if not relative and "position_ids" not in inspect.signature(model.forward).parameters:
        yield "positions cannot restart: its forward takes no position_ids, and they are not relative"
    for config in {id(part.config): part.config for part in parts}.values():
        if config._attn_implementation not in IMPLEMENTATIONS:  # no public property reads it
            yield f"build it with attn_implementation='document', got {config._attn_implementation!r}"


@torch.no_grad()
def rejection_without_weights(model: PreTrainedModel) -> str | None:
    """Return the error with which a model on the meta device rejects packed rows; None without one.

    Errors that values decide are not found, and neither are leaks between documents.
    """
    rows = torch.zeros(1, 8, dtype=torch.long, device="meta")
    try:
        _read(model.base_model, rows, position_ids=rows)
    except (ValueError, TypeError) as error:
        return str(error)
    except Exception:  # the meta device has no values to read
        return None
    return None


def _read(reader: Any, rows: Tensor, **inputs: Tensor) -> Tensor:
    """Return the hidden states of rows of documents of 4 tokens."""
    offsets = torch.arange(0, rows.numel() + 1, 4, dtype=torch.int32, device=rows.device)
    if reader.config.is_encoder_decoder:
        documents = Documents(offsets, offsets)
        return reader(input_ids=rows, decoder_input_ids=rows, documents=documents, return_dict=True)[0]
    return reader(input_ids=rows, documents=Documents(offsets), return_dict=True, **inputs)[0]


@torch.no_grad()
def _measured_leak(model: PreTrainedModel) -> str | None:
    """Compare packed rows with a document alone; return the difference as a sentence, or None if there is none.

    The rows are [x x] and [y x], for documents x and y of 4 tokens. The hidden states of the second x must equal those
    of x alone at the model's default positions.
    """
    reader: Any = model.base_model  # hidden states of every column, without a head
    x, y = (reader.get_input_embeddings().weight.shape[0] // 2 + torch.arange(8)).to(model.device).split(4)

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        alone = _read(reader, x[None])[0]
        position_ids = first_position(reader.config) + torch.arange(4, device=x.device).repeat(2, 2)
        packed = _read(reader, torch.stack([torch.cat([x, x]), torch.cat([y, x])]), position_ids=position_ids)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of code that this project does not know
        return str(error) if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {error}"
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
