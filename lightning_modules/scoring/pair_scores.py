"""Scores of a batch of packed pairs of instruction and response.

Packed pairs are read with document attention, and the head reads the first token of each. A model without document
attention reads each pair in a padded row instead, with its own forward.
"""

# B rows, L columns, S scored pairs, N tokens of the longest pair, H hidden width

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers import PreTrainedConfig, PreTrainedModel

from ...datamodules.schema import ScoredBatch
from ..attention.document_attention import Documents
from ..attention.isolation_checks import first_position

FIRST_TOKENS = "last_layer_reads_first_tokens_alone"
"""Attribute of a model whose last layer ``first_tokens.py`` has changed."""

PADDED = "reads_each_pair_in_a_row_of_its_own"
"""Attribute of a model that cannot read packed pairs."""

READ_PAIRS = "read_pairs"
"""Method of a sharded model that scores pairs; see ``gather_for_pairs``."""


def pair_scores(model: PreTrainedModel, batch: ScoredBatch) -> Tensor:
    """Return the scores [S] of a batch's (instruction, response) pairs, in the order of ``batch.scored``.

    They are the raw outputs of the model's head.

    Args:
        model: From ``build_scorer``.
        batch: Packed pairs with positions from 0; the model's first position is added here.

    Raises:
        ValueError: A pair is longer than the model has positions for.
    """
    require_pair_positions(model.config, batch.longest)
    if getattr(model, PADDED, False):
        return _read_padded(model, batch)
    read: Callable[[ScoredBatch], Tensor] = getattr(model, READ_PAIRS, partial(_read_packed, model))
    return read(batch)


def gather_for_pairs(model: PreTrainedModel) -> None:
    """Let a model sharded by FSDP2 gather its embeddings and head when pairs are scored, outside of its forward."""
    if isinstance(model, FSDPModule):
        setattr(model, READ_PAIRS, partial(_read_packed, model))
        register_fsdp_forward_method(model, READ_PAIRS)


def _read_packed(model: PreTrainedModel, batch: ScoredBatch) -> Tensor:
    encoder: Any = model.base_model
    types = batch.token_type_ids if _has_types(model) else None
    # From build_scorer, the last layer returns first tokens only; padding is a document, too, and not scored.
    alone = {"first_tokens": True} if getattr(model, FIRST_TOKENS, False) else {}
    hidden_BLH = encoder(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids + first_position(model.config),
        token_type_ids=types,
        documents=Documents(batch.offsets),
        return_dict=True,
        **alone,
    ).last_hidden_state
    places_S = torch.searchsorted(batch.offsets, batch.scored.to(batch.offsets.dtype)) if alone else batch.scored
    first_S1H = hidden_BLH.flatten(0, 1).index_select(0, places_S).unsqueeze(1)
    return _head(model, first_S1H).squeeze(-1)


def _has_types(model: PreTrainedModel) -> bool:
    return getattr(model.config, "type_vocab_size", 1) > 1


def _read_padded(model: PreTrainedModel, batch: ScoredBatch) -> Tensor:
    """Return the scores of rows [S, N] of one pair each, by the model's own forward.

    A batch without pairs computes one row, so that all processes call the model.
    """
    starts_S = batch.scored if len(batch.scored) else batch.scored.new_zeros(1)
    ends_S = batch.offsets[torch.searchsorted(batch.offsets, starts_S.to(batch.offsets.dtype), right=True)]
    columns_N = torch.arange(max(batch.longest, 1), device=starts_S.device)
    places_SN = starts_S.unsqueeze(1) + columns_N
    inside_SN = places_SN < ends_S.unsqueeze(1)
    places_SN = places_SN.where(inside_SN, starts_S.unsqueeze(1))
    padding = model.config.pad_token_id or 0  # some families compute positions from the padding id
    inputs = {
        "input_ids": batch.input_ids.flatten()[places_SN].where(inside_SN, padding),
        "attention_mask": inside_SN.long(),
    }
    if _has_types(model):
        inputs["token_type_ids"] = batch.token_type_ids.flatten()[places_SN].where(inside_SN, 0)
    return model(**inputs).logits[: len(batch.scored), 0]


def _head(model: PreTrainedModel, first_S1H: Tensor) -> Tensor:
    """Return the head's outputs for rows of one column; both families of heads read only the first column."""
    parts: Any = model
    read_SH = first_S1H if has_roberta_head(model) else parts.dropout(parts.base_model.pooler(first_S1H))
    return parts.classifier(read_SH.to(next(parts.classifier.parameters()).dtype))


def keep_head_in_float32(model: PreTrainedModel) -> None:
    """Compute the head of a half-precision model in float32, since bfloat16 scores would often be equal."""
    if not getattr(model, PADDED, False):
        parts: Any = model
        parts.classifier.float()  # BERT's pooler is part of its encoder


def has_roberta_head(model: PreTrainedModel) -> bool:
    """Return whether ``classifier`` reads the encoder's first column: dense, activation, out_proj.

    RoBERTa, XLM-R and ELECTRA have such a head.
    """
    classifier = getattr(model, "classifier", None)
    return hasattr(classifier, "dense") and hasattr(classifier, "out_proj")


def default_pair_length(config: PreTrainedConfig, virtual: int = 0) -> int:
    """Return 512 tokens, or the model's number of positions if it has fewer, without those of `virtual` tokens.

    >>> from transformers import RobertaConfig
    >>> default_pair_length(RobertaConfig(max_position_embeddings=130, pad_token_id=1))
    128
    """
    positions = _positions(config)
    return 512 if positions is None else min(512, positions - virtual)


def require_pair_positions(config: PreTrainedConfig, pair_length: int) -> None:
    """Reject pairs that are longer than the encoder's number of positions.

    Raises:
        ValueError: Names both lengths.
    """
    positions = _positions(config)
    if positions is not None and pair_length > positions:
        raise ValueError(
            f"pairs of {pair_length} tokens exceed the {positions} positions of the model ({config.model_type}): "
            "shorten them (max_length, or the datamodule's pair_length)"
        )


def _positions(config: PreTrainedConfig) -> int | None:
    """Return the largest number of tokens that the model reads; None if its positions have no table."""
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else positions - first_position(config)
