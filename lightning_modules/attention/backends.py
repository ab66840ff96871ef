"""What computes document attention: torch's varlen kernel, or one call for each group of documents of equal lengths."""

# B rows, L columns, H heads, E width of a head, T = B * L flattened tokens

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import AuxRequest, varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from .documents import Documents, Kind


def varlen_applies(query: Tensor, value: Tensor, position_bias: Tensor | None, dropout: float) -> bool:
    """Whether the flash kernel can serve: it knows half precision only, and neither bias nor dropout."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and position_bias is None
        and dropout == 0.0
        and query.shape[-1] == value.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
    )


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, kind: Kind, scaling: float | None
) -> Tensor:
    query_offsets, key_offsets = (offsets.to(query.device, torch.int32) for offsets in documents.sides(kind))
    query_THE, key_THE, value_THE = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    attended_THE = varlen_attn(
        query_THE,
        key_THE,
        value_THE,
        query_offsets,
        key_offsets,
        # A row's length bounds every document and is constant: the longest document's would have to be
        # fetched from the device, and would recompile the model whenever it changed.
        query.shape[2],
        key.shape[2],
        scale=scaling,
        window_size=(-1, 0) if kind == "decoder" else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended_THE, Tensor)  # a tuple only where log-sum-exps are asked for
    return attended_THE.unflatten(0, (query.shape[0], query.shape[2]))


@torch.compiler.disable  # where the branches lie is read from the documents
def attend_varlen_branches(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float | None
) -> Tensor:
    """Trunks and branches without any mask: each piece reads itself, branches read their trunk, and both are merged.

    Two softmaxes over disjoint keys are one over all of them when they are weighted by the exponentials of their
    log-sum-exps. Those have no gradient here: in training the grouped calls serve.
    """
    assert documents.branch_offsets is not None
    query_THE, key_THE, value_THE = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    longest = query.shape[2]  # a row's length bounds every document, see attend_varlen

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
        # [H, T] from the kernel, whatever its documentation says; [T, H] should that ever become true.
        return out_THE, lse.T if lse.shape[0] == queries.shape[1] else lse

    pieces = documents.branch_offsets.to(query.device, torch.int32)
    out_THE, lse_TH = attend(query_THE, key_THE, value_THE, pieces, pieces, causal=True)
    places, offsets, trunk_places, trunk_offsets = documents.branches(query.device)
    if len(places):
        keys, values = (states.index_select(0, trunk_places) for states in (key_THE, value_THE))
        shared_CHE, shared_lse_CH = attend(query_THE[places], keys, values, offsets, trunk_offsets, causal=False)
        weight_CH1 = torch.sigmoid(shared_lse_CH - lse_TH[places]).unsqueeze(-1).to(out_THE.dtype)
        out_THE = out_THE.index_copy(0, places, torch.lerp(out_THE[places], shared_CHE, weight_CH1))
    return out_THE.unflatten(0, (query.shape[0], query.shape[2]))


@torch.compiler.disable  # a traced loop over documents would recompile for every batch
def attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    kind: Kind,
    position_bias: Tensor | None,
    dropout: float,
    scaling: float | None,
    math: bool,
) -> Tensor:
    """One call for each group of documents of equal lengths; shapes as in ``document_attention``.

    Only branches need a mask, of their own tokens against their trunk's and their own.
    """
    plan = documents.plan(kind, query, key)
    query_sizes = [group.documents * group.queries for group in plan.groups]
    key_sizes = [group.documents * group.keys for group in plan.groups]

    def reordered(states: Tensor, order: Tensor) -> Tensor:
        tokens_THE = states.transpose(1, 2).flatten(0, 1).index_select(0, order)
        # Kernels with fewer key heads than query heads are not to be had on every device.
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
        for group, queries, keys, values, query_places, key_places in pieces:
            if group.keys == 0:
                attended.append(queries.new_zeros(*queries.shape[:2], value.shape[-1]))
                continue
            as_batch = partial(torch.unflatten, dim=0, sizes=(group.documents, -1))
            bias = group.mask
            if position_bias is not None:
                bias = _document_bias(position_bias, as_batch(query_places), as_batch(key_places))
                if kind == "decoder":
                    later = torch.ones(group.queries, group.keys, dtype=torch.bool, device=query.device).triu(1)
                    bias = bias.masked_fill(later, float("-inf"))
            out = scaled_dot_product_attention(
                as_batch(queries).transpose(1, 2),
                as_batch(keys).transpose(1, 2),
                as_batch(values).transpose(1, 2),
                attn_mask=bias,
                dropout_p=dropout,
                is_causal=kind == "decoder" and bias is None,
                scale=scaling,
            )
            attended.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended).index_select(0, plan.restore).unflatten(0, (query.shape[0], query.shape[2]))


def _document_bias(position_bias: Tensor, query_places: Tensor, key_places: Tensor) -> Tensor:
    """Each document's square of a bias [1 or B, H, L_query, L_key], as [1 or documents, H, queries, keys].

    It equals a lone document's bias because relative positions do not see where a document begins: a bias of one row is
    the same for all documents of the same lengths.
    """
    n_rows, _, n_queries, n_keys = position_bias.shape
    if n_rows == 1:
        query_places, key_places = query_places[:1], key_places[:1]
    rows = 0 if n_rows == 1 else query_places[:, :1, None] // n_queries
    places = (rows * n_queries + query_places[:, :, None] % n_queries) * n_keys + key_places[:, None, :] % n_keys
    # One gather, because the backward of a slice is a full matrix of zeros for each document.
    flat_HL = position_bias.transpose(0, 1).flatten(1)
    return flat_HL.index_select(1, places.flatten()).unflatten(1, places.shape).transpose(0, 1)
