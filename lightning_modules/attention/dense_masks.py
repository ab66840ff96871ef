"""Documents as an attention mask [B, 1, L, L], for models whose attention transformers cannot replace.

GPT-J, GPT-Neo, Falcon and others do not call the attention function that is registered with transformers
(document_attention.py), but they add any mask [B, 1, L, L] to their scores. Their positions come from ``position_ids``,
or from a bias by distances (ALiBi, arXiv 2108.12409). Under the mask, a document's hidden states are those of the
document alone. Memory and time of attention grow with the square of the row's length, as in a padded row.
"""

# B rows, L columns, T = B * L flattened tokens

import inspect
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .document_attention import IMPLEMENTATIONS
from .document_offsets import Documents

MASKED = frozenset({"bloom", "codegen", "falcon", "gpt_neo", "gpt_neox_japanese", "gptj", "mpt"})
"""Model types of decoders whose documents a mask keeps apart."""


def reads_masks(config: PreTrainedConfig) -> bool:
    """Return whether models of this configuration compute attention by themselves but add any mask to its scores.

    In these models a mask can separate the documents of a packed row.
    """
    return config.model_type in MASKED


def built_attention(config: PreTrainedConfig, attention: str) -> str:
    """Return transformers' name of the attention with which a language model is built.

    That is `attention`, the configured one. The exception is document attention in a model that separates documents by
    a mask: such a model is built with ``"eager"``, or, with Falcon's ALiBi, which transformers' eager attention adds
    twice, with ``"sdpa"``.
    """
    if attention not in IMPLEMENTATIONS or not reads_masks(config):
        return attention
    return "sdpa" if getattr(config, "alibi", False) else "eager"  # only Falcon has the field


def read_documents_by_mask(model: PreTrainedModel) -> None:
    """Make a model separate the documents of packed rows by an attention mask, in place.

    Its forward then takes the keyword ``documents``. Models that cannot use such a mask (``reads_masks``) do not
    change.
    """
    if reads_masks(model.config):
        if model.config.model_type in ("bloom", "falcon"):
            _restart_alibi(model.config.model_type)
        for part in (model, model.base_model):
            part.register_forward_pre_hook(_with_mask, with_kwargs=True)


def reads_documents_by_mask(model: nn.Module) -> bool:
    """Return whether a model separates packed documents by a mask (see ``read_documents_by_mask``)."""
    return _with_mask in model._forward_pre_hooks.values()


def mask_of(documents: Documents, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return a mask [B, 1, L, L] to add to attention scores, which separates the documents of packed rows.

    It is 0 where a token (third dimension) may attend to a token (last dimension): to itself and to earlier tokens of
    its document. Elsewhere it is the dtype's minimum.

    >>> mask_of(Documents(torch.tensor([0, 2, 3])), 1, 3, torch.float32)[0, 0] == 0
    tensor([[ True, False, False],
            [ True,  True, False],
            [False, False,  True]])

    Args:
        documents: Offsets of the documents in the flattened rows.
        rows: Number of packed rows, B.
        columns: Tokens of a row, L.
        dtype: Type of the mask, that of the model.

    Raises:
        ValueError: Documents have continuations: several texts, such as the options of a question, that each follow
            the same prefix and do not see each other.
    """
    if documents.has_shared_prefixes:
        raise ValueError("continuations of a shared prefix need document attention, and this model has its own")
    offsets = documents.offsets.long()
    document_T = torch.searchsorted(offsets[1:], torch.arange(rows * columns, device=offsets.device), right=True)
    document_BL = document_T.view(rows, columns)
    seen_BLL = (document_BL.unsqueeze(2) == document_BL.unsqueeze(1)).tril()
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen_BLL.shape, dtype=dtype, device=offsets.device).masked_fill(~seen_BLL, lowest).unsqueeze(1)


def alibi_of_documents(build: Any, attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """Return ALiBi's bias [B * H, 1, L] by positions within documents, equal to that of each document alone.

    Bloom and Falcon multiply a head's slope by the key's column, in the model's dtype or in bfloat16, so that the same
    distance has another bias in another column.

    Args:
        build: transformers' function, which returns the bias of (padding mask [B, L], number of heads, dtype).
        attention_mask: A mask of padding [B, L], or one of documents [B, 1, L, L] from ``mask_of``.
        num_heads: Number of heads, H.
        dtype: Type of the bias.
    """
    if attention_mask.dim() == 2:
        bias: Tensor = build(attention_mask, num_heads, dtype)
        return bias
    position_BL = (attention_mask[:, 0] == 0).sum(dim=-1) - 1  # a column sees its document's columns up to itself
    alone_HL = build(position_BL.new_ones(1, position_BL.shape[1]), num_heads, dtype)[:, 0]
    return alone_HL[:, position_BL].transpose(0, 1).flatten(0, 1).unsqueeze(1)


def _restart_alibi(model_type: str) -> None:
    """Let transformers' models of this type build ALiBi's bias by ``alibi_of_documents``; that of padding stays."""
    modeling: Any = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    if not isinstance(modeling.build_alibi_tensor, partial):
        modeling.build_alibi_tensor = partial(alibi_of_documents, modeling.build_alibi_tensor)


def _with_mask(model: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    documents = named.pop("documents", None)
    if documents is None:
        return inputs, named
    if named.get("attention_mask") is not None:
        raise ValueError("got documents and an attention mask: packed rows take attention_mask=None")
    if "position_ids" not in inspect.signature(model.forward).parameters:
        named.pop("position_ids", None)  # the positions of MPT and Bloom are distances
    rows, columns = named["input_ids"].shape
    return inputs, {**named, "attention_mask": mask_of(documents, rows, columns, model.dtype)}
