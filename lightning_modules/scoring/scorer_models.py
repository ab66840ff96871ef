"""Building a scorer: a model of transformers with a sequence-classification head of one output."""

from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ..attention.packable import require_document_attention
from .first_tokens import read_first_tokens_alone
from .pair_scores import FIRST_TOKENS, PADDED, has_roberta_head


def _has_bert_head(model: PreTrainedModel) -> bool:
    """A pooler reads the encoder's first column, and a linear ``classifier`` the pooler (BERT)."""
    pooler = getattr(model.base_model, "pooler", None)
    parts = hasattr(pooler, "dense") and hasattr(pooler, "activation"), hasattr(model, "dropout")
    return all(parts) and isinstance(getattr(model, "classifier", None), nn.Linear)


def require_scorer(model: PreTrainedModel, row_length: int | None = None) -> None:
    """Refuse a model that cannot score pairs as ``pair_scores`` reads them.

    Args:
        model: As ``build_scorer`` makes it, or built with ``attn_implementation="document"``.
        row_length: Columns of packed rows, to be compared with the model's attention window.

    Raises:
        ValueError: Its head has several outputs, or packed pairs would see each other.
    """
    if model.config.num_labels != 1:
        raise ValueError(
            f"a scorer has one output, and the head of this {type(model).__name__} has {model.config.num_labels}"
        )
    if not getattr(model, PADDED, False):
        _require_packed_head(model)
        require_document_attention(model, row_length)


def _require_packed_head(model: PreTrainedModel) -> None:
    """Refuse a head that is not known to read the first token alone, which is all that packed pairs give it."""
    if not (has_roberta_head(model) or _has_bert_head(model)):
        raise ValueError(
            f"{type(model).__name__} has no head that is known to read a pair's first token alone: expected classifier "
            "with dense and out_proj (RoBERTa's family), or a pooler with dense and a linear classifier (BERT's)"
        )


def build_scorer(
    config: PreTrainedConfig, *, weights: str | None, dtype: torch.dtype, row_length: int | None = None
) -> PreTrainedModel:
    """A model with a head of one output: under document attention, or reading pairs padded where it cannot have that.

    Weights of a bare encoder (RoBERTa as it was pretrained) get a new head. The layout of names is transformers' own,
    so that the saved folder loads as ``AutoModelForSequenceClassification`` with ``num_labels=1``.

    Args:
        config: Of the model; its head is set to one output.
        weights: Hub name or folder of the weights; None for random ones.
        dtype: Of the parameters.
        row_length: Columns of packed rows, to be compared with the model's attention window.

    Raises:
        ValueError: The weights have a head of another size, or none where their configuration says that they have one.
    """
    has_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if weights is not None and has_head and config.num_labels != 1:
        raise ValueError(
            f"{weights} has a head of {config.num_labels} outputs, and a scorer has one: start from a checkpoint with "
            "num_labels=1, or from an encoder without a head"
        )
    config.num_labels, config.problem_type = 1, "regression"
    try:
        model = _loaded(config, weights, dtype, has_head, attn_implementation="document")
        require_scorer(model, row_length)
    except ValueError as obstacle:
        model = _loaded(config, weights, dtype, has_head)  # what the weights themselves lack is refused again
        setattr(model, PADDED, True)
        rank_zero_info(f"{type(model).__name__} reads each pair in a row of its own, padded, since {obstacle}")
        return model
    setattr(model, FIRST_TOKENS, read_first_tokens_alone(model))
    return model


def _loaded(
    config: PreTrainedConfig, weights: str | None, dtype: torch.dtype, has_head: bool, **options: Any
) -> PreTrainedModel:
    """The model, none of whose weights is random without our knowing."""
    auto, config = AutoModelForSequenceClassification, deepcopy(config)
    if weights is None:
        return auto.from_config(config, dtype=dtype, **options)
    # A weight of another shape would be an error that names an option of transformers, not the checkpoint's head.
    model, found = auto.from_pretrained(
        weights, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    if mismatched := sorted(name for name, *_ in found["mismatched_keys"]):
        raise ValueError(
            f"{weights} does not fit a scorer with one output: {', '.join(mismatched)} have other shapes; start from a "
            "checkpoint with num_labels=1, or from an encoder without a head"
        )
    if has_head and (missing := sorted(found["missing_keys"])):
        raise ValueError(
            f"{weights} names itself {config.architectures} and lacks {', '.join(missing)}: its scores would come from "
            "random weights"
        )
    return model
