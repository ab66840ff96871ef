"""Document attention: in a packed row, every document attends to itself only.

Importing this module registers two attention implementations with transformers, ``"document"`` and ``"document_math"``.
A model built with ``attn_implementation="document"`` accepts packed rows with the offsets of their documents::

    model(input_ids, position_ids=position_ids, documents=Documents(offsets), use_cache=False)  # one stack
    model(input_ids, decoder_input_ids=..., documents=Documents(offsets, decoder_offsets), use_cache=False)
    model(input_ids, position_ids=..., documents=Documents(offsets, continuation_offsets=...))  # shared prefixes
    model(input_ids, attention_mask=mask)           # padded rows, or any 4-D mask: transformers' own sdpa
    model.generate(input_ids, attention_mask=mask)  # the same, with its cache

Anything else raises a ValueError. position_ids alone do not separate documents in every model (OPT ignores them when it
builds its mask), and without a mask documents would attend to each other without an error.
``isolation_checks.require_document_attention(model)`` rejects models whose documents cannot be separated at all.
"""

# B rows, L columns, H heads, E width of a head

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from .backends import (
    AttentionScores,
    attend_dense,
    attend_grouped,
    attend_varlen,
    attend_varlen_continuations,
    varlen_applies,
)
from .document_offsets import AttentionKind, Documents
from .span_groups import Window, window_mask

IMPLEMENTATIONS = ("document", "document_math")
"""Values of ``attn_implementation``; ``"document_math"`` can be differentiated twice and uses no fused kernels."""


def document_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    config: PreTrainedConfig | None = None,
    **kwargs: Any,
) -> Tensor | Window | None:
    """Return the attention mask of a forward's layers: the mask function that is registered as ``"document"``.

    transformers calls it with its own arguments, once for each kind of layer (full or sliding attention), and passes
    the result to the layers of that kind. For packed rows the result is None, or the layers' `Window`, and
    ``document_attention`` uses the offsets. Otherwise it is bool [B, 1, L_query, L_key] as for ``"sdpa"``. Unlike
    there, None never stands for a plain causal mask: left-padded prompts, and caches longer than the query, always have
    a mask.

    Raises:
        ValueError: The model adds its own mask function, which documents do not support.
    """
    if attention_mask is None and (q_length == kv_length or mask_function is bidirectional_mask_function):
        if use_vmap:
            raise ValueError("this model adds its own mask function, which document attention does not support")
        if not local_size or local_size >= kv_length:  # Qwen2-MoE writes 0 for no window
            return None
        # Only one of the two functions of transformers that mask locally reads this setting.
        return Window(local_size, chunked=local_size == getattr(config, "attention_chunk_size", None))
    # Without these, sdpa_mask may return None, which means packed documents here.
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        config=config,
        **kwargs,
    )


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Window | None,
    *,
    documents: Documents | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_ids: Tensor | None = None,
    math: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention within documents, or under a mask: the function registered as ``"document"``.

    transformers calls it in every attention layer, with the keywords of the model's forward. ``"document_math"`` is the
    same with ``math=True``.

    Args:
        module: The attention layer. Its ``is_causal`` marks decoder self-attention; among others, ``is_decoder`` marks
            cross-attention.
        query: [B, H, L_query, E], B rows, H heads of width E.
        key: [B, H_key, L_key, E]; H_key divides H.
        value: [B, H_key, L_key, E].
        attention_mask: For rows of one document: bool (True: attend) or additive, [B, 1 or H, L_query, L_key]. With
            `documents`: None, or the layer's window.
        documents: Offsets of the documents in packed rows. None if rows hold one document each and `attention_mask` is
            given.
        dropout: Probability of dropping an attention weight.
        scaling: Multiplies the scores; 1 / sqrt(E) if None.
        is_causal: Replaces ``module.is_causal`` if it is not None.
        position_bias: Added to the scores, [1 or B, H, L_query, L_key] (T5); None for none. A bias of one row must
            depend on distances only.
        softcap: Replaces a score s by softcap * tanh(s / softcap) (Gemma 2); None for no cap.
        s_aux: [H], logits of the attention sinks (GPT-OSS); None for no sinks.
        position_ids: [B, L], positions of the columns; None if the model does not pass them to its layers. Only used to
            recognize ``generate``.
        math: Whether to use sdpa's math backend only, which can be differentiated twice.

    Returns:
        Output [B, L_query, H, E], 0 for queries whose document has no keys; and None for the attention weights.

    Raises:
        ValueError: Neither documents nor a mask, or both, or a feature that document attention lacks.
    """
    scores = AttentionScores(scaling, dropout, softcap, s_aux)
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    window = attention_mask if isinstance(attention_mask, Window) else None
    mask = None if isinstance(attention_mask, Window) else attention_mask
    if documents is None:
        if mask is None and query.shape[2] == key.shape[2] > 1:
            _require_generation(position_ids, is_causal)
        if window is not None:
            columns = torch.arange(key.shape[2], device=query.device)
            mask = window_mask(columns[-query.shape[2] :], columns, window, causal=is_causal)[None, None]
        return _attend_rows(module, query, key, value, mask, position_bias, scores, is_causal, math, **kwargs), None
    if mask is not None:
        raise ValueError("got documents and an attention mask: packed rows take attention_mask=None")
    kind = _attention_kind(module, is_causal, documents)
    _reject_unsupported(kind, documents, query, key, window, position_bias)
    device = query.device.type
    if torch.is_autocast_enabled(device) and query.dtype != torch.float64:
        # As sdpa does under autocast: rotary embeddings have returned float32 queries and keys.
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    continued = kind == "decoder" and documents.has_shared_prefixes
    if not math and scores.plain and varlen_applies(query, value, position_bias, dropout):
        if continued and window is None and not torch.is_grad_enabled():
            return attend_varlen_continuations(query, key, value, documents, scaling), None
        if not continued:
            return attend_varlen(query, key, value, documents, kind, scaling, window), None
    return attend_grouped(query, key, value, documents, kind, position_bias, scores, math, window), None


def _attention_kind(module: nn.Module, is_causal: bool, documents: Documents) -> AttentionKind:
    """Return the kind of an attention layer; cross-attention needs the offsets of the decoder's documents."""
    if is_causal:
        return "decoder"
    if not getattr(module, "is_decoder", False):
        return "encoder"
    if documents.decoder_offsets is None:
        raise ValueError("cross-attention needs Documents(offsets, decoder_offsets), got no decoder_offsets")
    return "cross"


def _reject_unsupported(
    kind: AttentionKind,
    documents: Documents,
    query: Tensor,
    key: Tensor,
    window: Window | None,
    position_bias: Tensor | None,
) -> None:
    """Reject packed rows with a feature that cannot be computed within documents."""
    if kind == "cross" and window is not None:
        raise ValueError(f"cross-attention has no windows, got {window}")
    if kind != "cross" and query.shape[2] != key.shape[2]:
        raise ValueError(
            f"packed rows cannot continue a cache: {query.shape[2]} queries for {key.shape[2]} keys in a row"
        )
    if kind == "decoder" and documents.has_shared_prefixes and position_bias is not None:
        raise ValueError(
            "continuations of a shared prefix cannot have a position bias: it is given by column, and continuations in "
            "different columns have the same positions"
        )


def _attend_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    position_bias: Tensor | None,
    scores: AttentionScores,
    is_causal: bool,
    math: bool,
    **kwargs: Any,
) -> Tensor:
    """Return attention [B, L_query, H, E] of rows that hold one document each.

    transformers' sdpa computes it unless the scores have a softcap or sinks.
    """
    with sdpa_kernel(SDPBackend.MATH) if math else nullcontext():
        if scores.plain:
            attended, _ = sdpa_attention_forward(
                module,
                query,
                key,
                value,
                mask,
                dropout=scores.dropout,
                scaling=scores.scaling,
                is_causal=is_causal,
                position_bias=position_bias,
                **kwargs,
            )
            return attended
        if position_bias is not None:
            raise ValueError("document attention supports no position bias beside softcap or attention sinks")
        key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
        causal = is_causal and mask is None and query.shape[2] > 1
        return attend_dense(query, key, value, mask, scores, causal=causal).transpose(1, 2)


def _require_generation(position_ids: Tensor | None, is_causal: bool) -> None:
    """Reject a call without documents and without a mask, unless it comes from ``generate``."""
    if not (is_causal and _generates(position_ids)):
        raise ValueError(
            "document attention needs documents or an attention mask, got neither: pass "
            "documents=Documents(offsets) with packed rows, else attention_mask (and, with decoder inputs "
            "of more than one token, decoder_attention_mask)"
        )


def _generates(position_ids: Tensor | None) -> bool:
    """Return whether a causal call without documents and without a mask comes from ``generate``.

    ``generate`` drops the mask of a batch without padding; each row is then one document. It is recognized by two
    facts: it takes no gradients, and its positions never restart, as those of packed rows do.
    """
    if torch.is_grad_enabled():
        return False
    if position_ids is None or position_ids.is_meta:  # nothing generates on the meta device, which has no values
        return position_ids is None
    return bool((position_ids.diff() == 1).all())


@contextmanager
def without_packing_search() -> Iterator[None]:
    """Skip transformers' search for document boundaries in position_ids, which makes the host wait for the device.

    ``documents`` already state the boundaries, and ``document_mask`` does not read the result of the search.
    """
    search = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = search


AttentionInterface.register("document", document_attention)
AttentionInterface.register("document_math", partial(document_attention, math=True))
for _name in IMPLEMENTATIONS:
    AttentionMaskInterface.register(_name, document_mask)
