"""Kernels that compute document attention: torch's varlen kernel, or one sdpa call per group of documents.

``document_attention`` chooses among them: ``attend_varlen`` in half precision on CUDA without bias and dropout,
``attend_grouped`` everywhere else.
"""

# B rows, L columns, H heads, E width of a head, T = B * L flattened tokens

from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import AuxRequest, varlen_attn
from torch.nn.functional import dropout, scaled_dot_product_attention

from .document_offsets import AttentionKind, Documents
from .span_groups import Group, Plan, Window


def varlen_applies(query: Tensor, value: Tensor, position_bias: Tensor | None, dropout: float) -> bool:
    """Return whether torch's varlen kernel supports this call.

    It needs CUDA, half precision, no position bias, no dropout, and heads of one width: a multiple of 8, at most 256.
    """
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and position_bias is None
        and dropout == 0.0
        and query.shape[-1] == value.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
    )


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    kind: AttentionKind,
    scaling: float | None,
    window: Window | None = None,
) -> Tensor:
    """Return attention within documents, or within a window of them, by one call of torch's varlen kernel.

    Args:
        query: [B, H, L_query, E], on CUDA in half precision.
        key: [B, H_key, L_key, E]; H_key divides H.
        value: [B, H_key, L_key, E].
        documents: Offsets of the documents.
        kind: Self-attention of an encoder or a decoder (causal), or cross-attention.
        scaling: Multiplies the scores; 1 / sqrt(E) if None.
        window: Window of the layer; None for whole documents.

    Returns:
        [B, L_query, H, E].
    """
    query_offsets, key_offsets = (
        offsets.to(query.device, torch.int32) for offsets in documents.query_and_key_offsets(kind)
    )
    left, right = -1, 0 if kind == "decoder" else -1
    if window is not None and window.chunked:  # a chunk is a document of its own
        query_offsets = key_offsets = documents.chunk_offsets(window.size, query.device)
    elif window is not None:
        left, right = (window.size - 1, 0) if kind == "decoder" else (window.size, window.size)
    query_THE, key_THE, value_THE = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    attended_THE = varlen_attn(
        query_THE,
        key_THE,
        value_THE,
        query_offsets,
        key_offsets,
        # A row's length bounds every document and is constant. The longest document's length would have to be
        # copied from the device, and a change of it would recompile the model.
        query.shape[2],
        key.shape[2],
        scale=scaling,
        window_size=(left, right),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended_THE, Tensor)  # a tuple only if log-sum-exps are requested
    return attended_THE.unflatten(0, (query.shape[0], query.shape[2]))


@torch.compiler.disable  # the continuations' indices depend on the values of the offsets
def attend_varlen_continuations(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float | None
) -> Tensor:
    """Return attention of shared prefixes and their continuations, by two calls of the varlen kernel and no mask.

    The first call attends within each prefix and within each continuation, the second from continuations to their
    prefix. A softmax over both sets of keys is the mean of the two results, weighted by the exponentials of their
    log-sum-exps. The kernel returns no gradients for log-sum-exps, so this is for inference; training uses
    ``attend_grouped``.

    Args:
        query: [B, H, L, E], on CUDA in half precision.
        key: [B, H_key, L, E]; H_key divides H.
        value: [B, H_key, L, E].
        documents: Offsets of the documents and of their continuations.
        scaling: Multiplies the scores; 1 / sqrt(E) if None.

    Returns:
        [B, L, H, E].
    """
    assert documents.continuation_offsets is not None
    query_THE, key_THE, value_THE = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    longest = query.shape[2]  # see attend_varlen

    def attend(
        queries: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, key_offsets: Tensor, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        out_THE, lse = varlen_attn(
            queries,
            keys,
            values,
            offsets,
            key_offsets,
            longest,
            longest,
            return_aux=AuxRequest(lse=True),
            scale=scaling,
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        # The kernel returns [H, T], although its documentation says [T, H]; both are accepted.
        return out_THE, lse.T if lse.shape[0] == queries.shape[1] else lse

    pieces = documents.continuation_offsets.to(query.device, torch.int32)
    out_THE, lse_TH = attend(query_THE, key_THE, value_THE, pieces, pieces, causal=True)
    indices, offsets, prefix_indices, prefix_offsets = documents.continuations(query.device)
    if len(indices):
        keys, values = (states.index_select(0, prefix_indices) for states in (key_THE, value_THE))
        shared_CHE, shared_lse_CH = attend(query_THE[indices], keys, values, offsets, prefix_offsets, causal=False)
        weight_CH1 = torch.sigmoid(shared_lse_CH - lse_TH[indices]).unsqueeze(-1).to(out_THE.dtype)
        out_THE = out_THE.index_copy(0, indices, torch.lerp(out_THE[indices], shared_CHE, weight_CH1))
    return out_THE.unflatten(0, (query.shape[0], query.shape[2]))


class AttentionScores(NamedTuple):
    """Options that change how scores become attention weights, besides mask and softmax.

    Args:
        scaling: Multiplies the scores; 1 / sqrt(E) if None.
        dropout: Probability of dropping an attention weight; 0 outside of training.
        softcap: Replaces a score s by softcap * tanh(s / softcap) before the mask (Gemma 2, arXiv 2408.00118); None for
            no cap.
        sinks: [H], one learned logit per head that enters the softmax as a further key without a value (GPT-OSS); None
            for no sinks.
    """

    scaling: float | None = None
    dropout: float = 0.0
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether sdpa and the varlen kernel support these options: neither softcap nor sinks."""
        return self.softcap is None and self.sinks is None


@torch.compiler.disable  # a traced loop over groups would recompile for every batch
def attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    kind: AttentionKind,
    position_bias: Tensor | None,
    scores: AttentionScores,
    math: bool,
    window: Window | None = None,
) -> Tensor:
    """Return attention within documents by one sdpa call per group of documents, on any device.

    On a CPU a group holds documents of equal lengths. On a GPU it holds documents of similar lengths, padded to one
    length, and a mask hides the padding. Groups of continuations and of documents longer than the window have a mask,
    too.

    Args:
        query: [B, H, L_query, E].
        key: [B, H_key, L_key, E]; H_key divides H.
        value: [B, H_key, L_key, E].
        documents: Offsets of the documents.
        kind: Self-attention of an encoder or a decoder (causal), or cross-attention.
        position_bias: Added to the scores, [1 or B, H, L_query, L_key] (T5); None for none.
        scores: Scale, dropout, softcap and sinks.
        math: Whether to use sdpa's math backend only, which can be differentiated twice.
        window: Window of the layer; None for whole documents.

    Returns:
        [B, L_query, H, E].
    """
    plan = documents.plan(kind, query, key, window)
    query_sizes = [group.documents * group.queries for group in plan.groups]
    key_sizes = [group.documents * group.keys for group in plan.groups]

    def reordered(states: Tensor, order: Tensor) -> Tensor:
        tokens_THE = states.transpose(1, 2).flatten(0, 1).index_select(0, order)
        # Not every device has a kernel with fewer key heads than query heads.
        return tokens_THE.repeat_interleave(query.shape[1] // states.shape[1], dim=1)

    pieces = zip(
        plan.groups,
        reordered(query, plan.query_order).split(query_sizes),
        reordered(key, plan.key_order).split(key_sizes),
        reordered(value, plan.key_order).split(key_sizes),
        plan.query_order.split(query_sizes),
        plan.key_order.split(key_sizes),
        strict=True,
    )
    attended = []
    with sdpa_kernel(SDPBackend.MATH) if math else nullcontext():
        for group, queries, keys, values, query_indices, key_indices in pieces:
            if group.keys == 0:
                attended.append(queries.new_zeros(*queries.shape[:2], value.shape[-1]))
                continue
            as_batch = partial(torch.unflatten, dim=0, sizes=(group.documents, -1))
            bias = _group_bias(plan, group, kind, position_bias, as_batch(query_indices), as_batch(key_indices))
            out = attend_dense(
                as_batch(queries).transpose(1, 2),
                as_batch(keys).transpose(1, 2),
                as_batch(values).transpose(1, 2),
                bias,
                scores,
                causal=kind == "decoder" and bias is None,
            )
            attended.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended).index_select(0, plan.restore).unflatten(0, (query.shape[0], query.shape[2]))


def _group_bias(
    plan: Plan,
    group: Group,
    kind: AttentionKind,
    position_bias: Tensor | None,
    query_indices: Tensor,
    key_indices: Tensor,
) -> Tensor | None:
    """Return the mask or additive bias of a group's call; None if causal or full attention needs neither.

    query_indices: [documents, queries], indices of the group's queries in the flattened rows; key_indices likewise.
    """
    # Padding follows a document's last token, so causal attention hides it without a mask.
    mask = None if plan.padded and kind == "decoder" else group.mask
    if position_bias is None:
        return mask
    if plan.padded and len(position_bias) == 1:  # padding repeats a position of the first document
        device = position_bias.device
        query_indices, key_indices = (torch.arange(n, device=device)[None] for n in (group.queries, group.keys))
    bias = _document_bias(position_bias, query_indices, key_indices)
    if mask is None and kind == "decoder":
        mask = torch.ones(group.queries, group.keys, dtype=torch.bool, device=bias.device).tril()
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


def attend_dense(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scores: AttentionScores, *, causal: bool
) -> Tensor:
    """Return attention [B, H, L_query, E] of padded rows, by sdpa, or in plain torch with a softcap or sinks.

    Args:
        query: [B, H, L_query, E].
        key: [B, H, L_key, E].
        value: [B, H, L_key, E].
        mask: Bool (True: attend) or additive, and broadcast to [B, H, L_query, L_key]; None for no mask.
        scores: Scale, dropout, softcap and sinks.
        causal: Whether a query attends to no later key; `mask` is then None.
    """
    if scores.plain:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=scores.dropout, is_causal=causal, scale=scores.scaling
        )
    scaling = query.shape[-1] ** -0.5 if scores.scaling is None else scores.scaling
    score_BHLL = query @ key.transpose(2, 3) * scaling
    if scores.softcap is not None:
        score_BHLL = (score_BHLL / scores.softcap).tanh() * scores.softcap
    if causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        hidden = score_BHLL.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else score_BHLL + mask
        score_BHLL = hidden
    if scores.sinks is not None:
        sink_BHL1 = scores.sinks.to(score_BHLL.dtype).view(1, -1, 1, 1).expand(*score_BHLL.shape[:3], 1)
        score_BHLL = torch.cat([score_BHLL, sink_BHL1], dim=-1)
    weight_BHLL = score_BHLL.softmax(dim=-1, dtype=torch.promote_types(score_BHLL.dtype, torch.float32))
    weight_BHLL = dropout(weight_BHLL[..., : key.shape[2]].to(value.dtype), scores.dropout)
    return weight_BHLL @ value


def _document_bias(position_bias: Tensor, query_indices: Tensor, key_indices: Tensor) -> Tensor:
    """Return each document's block of a position bias, as [1 or documents, H, queries, keys].

    The bias is [1 or B, H, L_query, L_key]. A relative bias depends on distances only, so a document's block is the
    bias that it would have without packing. A bias of one row is the same for all documents of equal lengths.
    """
    n_rows, _, n_queries, n_keys = position_bias.shape
    if n_rows == 1:
        query_indices, key_indices = query_indices[:1], key_indices[:1]
    rows = 0 if n_rows == 1 else query_indices[:, :1, None] // n_queries
    indices = (rows * n_queries + query_indices[:, :, None] % n_queries) * n_keys + key_indices[:, None, :] % n_keys
    # One gather: the backward of a slice allocates a full matrix of zeros for every document.
    flat_HL = position_bias.transpose(0, 1).flatten(1)
    return flat_HL.index_select(1, indices.flatten()).unflatten(1, indices.shape).transpose(0, 1)
