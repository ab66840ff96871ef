"""Building of a scorer: a model of transformers with a sequence-classification head of one output."""

from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from ...datamodules.pretrained_weights import load_pretrained
from ..attention.isolation_checks import CannotPack, require_document_attention, require_registered_attention
from .first_tokens import read_first_tokens_alone
from .pair_scores import FIRST_TOKENS, PADDED, has_roberta_head


def _has_bert_head(model: PreTrainedModel) -> bool:
    """Return whether a pooler reads the encoder's first column, and a linear ``classifier`` reads the pooler (BERT)."""
    pooler = getattr(model.base_model, "pooler", None)
    parts = hasattr(pooler, "dense") and hasattr(pooler, "activation"), hasattr(model, "dropout")
    return all(parts) and isinstance(getattr(model, "classifier", None), nn.Linear)


def require_scorer(model: PreTrainedModel) -> None:
    """Reject a model that cannot score pairs of instruction and response.

    Args:
        model: From ``build_scorer``, or built with ``attn_implementation="document"``.

    Raises:
        ValueError: Its head has several outputs, or packed pairs would see each other.
    """
    if model.config.num_labels != 1:
        raise ValueError(
            f"a scorer has one output, and the head of this {type(model).__name__} has {model.config.num_labels}"
        )
    if not getattr(model, PADDED, False):
        _require_packed_head(model)
        require_document_attention(model)


def _require_packed_head(model: PreTrainedModel) -> None:
    """Reject a head that may read more than a pair's first token, since packed pairs give it no other."""
    if not (has_roberta_head(model) or _has_bert_head(model)):
        raise ValueError(
            f"{type(model).__name__} has no supported head, which reads only a pair's first token: expected classifier "
            "with dense and out_proj (RoBERTa's family), or a pooler with dense and a linear classifier (BERT's)"
        )


def build_scorer(config: PreTrainedConfig, *, weights: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """Build a scorer: a sequence-classification model of transformers with a head of one output.

    It has document attention if the architecture supports that; else it reads padded pairs. Weights of an encoder
    without a head (pretrained RoBERTa) get a new head. Parameters have transformers' names, so that the saved folder
    loads as ``AutoModelForSequenceClassification`` with ``num_labels=1``.

    Args:
        config: Configuration of the model; its head is set to one output.
        weights: Hub name or folder of the weights; None for random ones.
        dtype: Type of the parameters.

    Raises:
        ValueError: The weights have a head of another size, or lack the head that their configuration names.
    """
    has_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if weights is not None and has_head and config.num_labels != 1:
        raise ValueError(
            f"{weights} has a head of {config.num_labels} outputs, and a scorer has one: start from a checkpoint with "
            "num_labels=1, or from an encoder without a head"
        )
    config.num_labels, config.problem_type = 1, "regression"
    peer: Any = config  # sentence-transformers reads this name, and would add a sigmoid
    peer.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    try:
        classes: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
        if classes is not None:
            require_registered_attention(classes[0] if isinstance(classes, tuple) else classes)
        model = _loaded(config, weights, dtype, has_head, attn_implementation="document")
        require_scorer(model)
    except ValueError as error:
        model = _loaded(config, weights, dtype, has_head)  # raises again if the weights are the problem
        setattr(model, PADDED, True)
        reason = error.reason if isinstance(error, CannotPack) else error
        rank_zero_info(f"{type(model).__name__} reads each pair in a separate padded row, since {reason}")
        return model
    setattr(model, FIRST_TOKENS, read_first_tokens_alone(model))
    return model


def _loaded(
    config: PreTrainedConfig, weights: str | None, dtype: torch.dtype, has_head: bool, **options: Any
) -> PreTrainedModel:
    """Load the model; only the head of an encoder may be missing from its weights."""
    auto, config = AutoModelForSequenceClassification, deepcopy(config)
    if weights is None:
        return auto.from_config(config, dtype=dtype, **options)
    optional = None if has_head else _is_of_head
    return load_pretrained(auto, weights, optional=optional, config=config, dtype=dtype, **options)


def _is_of_head(model: PreTrainedModel, name: str) -> bool:
    """Return whether a weight belongs to the head of a scorer, which an encoder lacks; BERT's pooler is part of it."""
    return not name.startswith(f"{model.base_model_prefix}.") or "pooler" in name.split(".")
