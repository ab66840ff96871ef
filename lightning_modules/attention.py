"""Document attention: a packed row reads as if each of its documents were alone.

Packing puts several examples into one row, and attention must not cross from one to the next. Importing this
module registers two attention implementations with transformers, ``"document"`` and ``"document_math"``. A
model built with ``attn_implementation="document"`` takes packed rows with the places of their documents::

    model(input_ids, position_ids=position_ids, documents=Documents(offsets), use_cache=False)  # one stack
    model(input_ids, decoder_input_ids=..., documents=Documents(offsets, decoder_offsets), use_cache=False)
    model(input_ids, attention_mask=mask)           # padded rows, or any 4-D mask: transformers' own sdpa
    model.generate(input_ids, attention_mask=mask)  # the same, with its cache

Anything else is refused, because position_ids alone do not separate documents in every model (OPT ignores
them when it builds its mask), and a missing mask would let documents read their neighbours without an error.
``packable.require_document_attention(model)`` refuses the models that cannot be separated at all.
"""

# B rows, L columns, D documents (padding included), H heads, E width of a head, T = B * L flattened tokens

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

IMPLEMENTATIONS = ("document", "document_math")
"""Values of ``attn_implementation``; ``"document_math"`` has second derivatives and no fused kernels."""

Kind = Literal["encoder", "decoder", "cross"]
"""Which documents ask, and which answer: encoder-encoder, decoder-decoder, or decoder-encoder."""


class _Group(NamedTuple):
    """Documents of equal lengths, attended in one call."""

    documents: int
    queries: int
    keys: int


class _Plan(NamedTuple):
    """The order that puts documents of equal lengths side by side, and the way back.

    Args:
        groups: One per pair of lengths, in the order of the reordered tokens.
        query_order: int64 [T_query], places of the queries in the flattened rows.
        key_order: int64 [<= T_key], places of the keys; keys that no query reads are left out.
        restore: int64 [T_query], the inverse of ``query_order``.
    """

    groups: tuple[_Group, ...]
    query_order: Tensor
    key_order: Tensor
    restore: Tensor


class Documents:
    """Where the documents of a packed batch lie, passed to a model's forward as the keyword ``documents``.

    One object serves every layer of one forward: the order in which documents of equal lengths are attended
    together is worked out once and kept here.

    Args:
        offsets: int [D + 1], where documents start in the flattened rows, padding included; every row's start
            is among them and the last is B * L. In an encoder-decoder model these are the encoder's.
        decoder_offsets: int [D + 1], the same of the decoder's rows; document d of the decoder reads document
            d of the encoder. None for models of one stack.
    """

    def __init__(self, offsets: Tensor, decoder_offsets: Tensor | None = None) -> None:
        for name, given in (("offsets", offsets), ("decoder_offsets", decoder_offsets)):
            if given is not None and (given.ndim != 1 or len(given) < 2 or given.is_floating_point()):
                raise ValueError(f"{name} must be integers of shape [D + 1], got {given.dtype} {tuple(given.shape)}")
        if decoder_offsets is not None and len(decoder_offsets) != len(offsets):
            raise ValueError(
                f"encoder and decoder must hold the same documents, got {len(offsets) - 1} in the encoder "
                f"and {len(decoder_offsets) - 1} in the decoder"
            )
        self.offsets = offsets
        self.decoder_offsets = decoder_offsets
        self._plans: dict[tuple[Kind, torch.device], _Plan] = {}

    def sides(self, kind: Kind) -> tuple[Tensor, Tensor]:
        """Offsets of the queries and of the keys, each [D + 1]."""
        decoder_offsets = self.offsets if self.decoder_offsets is None else self.decoder_offsets
        if kind == "encoder":
            return self.offsets, self.offsets
        return decoder_offsets, decoder_offsets if kind == "decoder" else self.offsets

    def plan(self, kind: Kind, query: Tensor, key: Tensor) -> _Plan:
        """The grouping for queries [B, H, L_query, E] and keys [B, H, L_key, E], made on the first call."""
        if (kind, query.device) not in self._plans:
            queries, keys = (offsets.tolist() for offsets in self.sides(kind))
            for offsets, states in ((queries, query), (keys, key)):
                _check_offsets(offsets, rows=states.shape[0], columns=states.shape[2])
            self._plans[kind, query.device] = _plan(queries, keys, query.device)
        return self._plans[kind, query.device]


def _check_offsets(offsets: list[int], *, rows: int, columns: int) -> None:
    row_starts = range(0, rows * columns + 1, columns)
    if offsets[0] != 0 or offsets[-1] != row_starts[-1] or any(end < start for start, end in pairwise(offsets)):
        raise ValueError(
            f"offsets must rise from 0 to {rows} rows * {columns} columns = {row_starts[-1]}, got {offsets}"
        )
    if crossed := sorted(set(row_starts) - set(offsets)):
        raise ValueError(f"a document cannot cross rows: offsets lack the row starts {crossed}, got {offsets}")


def _plan(query_offsets: list[int], key_offsets: list[int], device: torch.device) -> _Plan:
    starts = defaultdict[tuple[int, int], list[tuple[int, int]]](list)
    for document in range(len(query_offsets) - 1):
        query_start, query_end = query_offsets[document : document + 2]
        key_start, key_end = key_offsets[document : document + 2]
        if query_end > query_start:
            starts[query_end - query_start, key_end - key_start].append((query_start, key_start))

    def places(side: int) -> Tensor:
        return torch.cat(
            [
                (torch.tensor(members)[:, side, None] + torch.arange(lengths[side])).flatten()
                for lengths, members in starts.items()
            ]
        )

    query_order = places(0)
    return _Plan(
        groups=tuple(_Group(len(members), *lengths) for lengths, members in starts.items()),
        query_order=query_order.to(device),
        key_order=places(1).to(device),
        restore=query_order.argsort().to(device),
    )


def block_diagonal_mask(offsets: Tensor, rows: int, columns: int, *, causal: bool) -> Tensor:
    """The dense mask that document attention stands for: bool [B, 1, L, L], True where a query reads a key.

    Two documents, of 2 and 3 tokens, in one row:

    >>> block_diagonal_mask(torch.tensor([0, 2, 5]), 1, 5, causal=True)[0, 0].int()
    tensor([[1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 1, 1, 0],
            [0, 0, 1, 1, 1]], dtype=torch.int32)

    Its memory grows with L * L: it is for tests and for masks that documents cannot express.
    """
    places = torch.arange(rows * columns, device=offsets.device)
    document_BL = torch.searchsorted(offsets.long(), places, right=True).view(rows, columns)
    mask_BLL = document_BL.unsqueeze(2) == document_BL.unsqueeze(1)
    return (mask_BLL.tril() if causal else mask_BLL).unsqueeze(1)


# --- what transformers calls ---


def document_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> Tensor | None:
    """The mask of one forward: None for packed rows, else bool [B, 1, L_query, L_key] as for ``"sdpa"``.

    None means that no mask was given, never "plain causal" as under ``"sdpa"``: a left-padded prompt and a
    cache longer than the query always get their mask.

    Raises:
        ValueError: The model asks for a window, a chunk or an overlay that whole documents cannot honour.
    """
    if attention_mask is None and (q_length == kv_length or mask_function is bidirectional_mask_function):
        if local_size is not None and local_size < kv_length:
            raise ValueError(
                f"attention within {local_size} tokens cannot be given to packed rows of {kv_length} tokens"
            )
        if use_vmap:
            raise ValueError("this model overlays its own mask, which packed documents cannot honour")
        return None
    # The skips would return None, and None means documents here.
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        **kwargs,
    )


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Documents | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    math: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within documents, or under a mask: the function behind ``"document"`` and ``"document_math"``.

    Args:
        module: The attention layer; ``is_causal`` marks decoder self-attention, else ``is_decoder``
            cross-attention.
        query: [B, H, L_query, E].
        key: [B, H_key, L_key, E]; H_key divides H.
        value: [B, H_key, L_key, E].
        attention_mask: bool or additive [B, 1 or H, L_query, L_key], or None with documents.
        documents: Where documents lie, or None with a mask.
        dropout: Probability of dropping an attention weight.
        scaling: Factor of the scores; 1 / sqrt(E) if None.
        is_causal: Overrides ``module.is_causal``.
        position_bias: Added to the scores, [1 or B, H, L_query, L_key].
        softcap: Must be None.
        s_aux: Must be None.
        sliding_window: Must not be shorter than a packed row.
        position_ids: Positions of the columns, [B, L], where the model hands them down.
        math: Use kernels that can be differentiated twice.

    Returns:
        [B, L_query, H, E], and None for the weights. A query whose document has no keys reads 0.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("document attention has neither softcap nor attention sinks (s_aux)")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if documents is None:
        unmasked = attention_mask is None and query.shape[2] == key.shape[2] > 1
        if unmasked and not (is_causal and _generates(position_ids)):
            raise ValueError(
                "document attention needs documents or an attention mask, got neither: pass "
                "documents=Documents(offsets) with packed rows, else attention_mask (and, with decoder inputs "
                "of more than one token, decoder_attention_mask)"
            )
        with sdpa_kernel(SDPBackend.MATH) if math else nullcontext():
            return sdpa_attention_forward(
                module,
                query,
                key,
                value,
                attention_mask,
                dropout=dropout,
                scaling=scaling,
                is_causal=is_causal,
                position_bias=position_bias,
                **kwargs,
            )
    if attention_mask is not None:
        raise ValueError("got documents and an attention mask: packed rows take attention_mask=None")
    if sliding_window is not None and sliding_window < query.shape[2]:
        raise ValueError(f"packed rows of {query.shape[2]} tokens exceed the sliding window of {sliding_window}")
    kind: Kind = "decoder" if is_causal else "cross" if getattr(module, "is_decoder", False) else "encoder"
    if kind == "cross" and documents.decoder_offsets is None:
        raise ValueError("cross-attention needs Documents(offsets, decoder_offsets), got no decoder_offsets")
    if kind != "cross" and query.shape[2] != key.shape[2]:
        raise ValueError(
            f"packed rows cannot continue a cache: {query.shape[2]} queries for {key.shape[2]} keys in a row"
        )
    device = query.device.type
    if torch.is_autocast_enabled(device) and query.dtype != torch.float64:
        # As sdpa itself does under autocast: rotary positions have made queries and keys float32 again.
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    if not math and _varlen_applies(query, value, position_bias, dropout):
        return _attend_varlen(query, key, value, documents, kind, scaling), None
    return _attend_grouped(query, key, value, documents, kind, position_bias, dropout, scaling, math), None


def _generates(position_ids: Tensor | None) -> bool:
    """Whether a decoder without documents or mask may read each row as one document.

    ``generate`` drops the mask of a batch without padding. It takes no gradients, and its positions never
    restart; packed rows whose documents were forgotten do.
    """
    if torch.is_grad_enabled():
        return False
    return position_ids is None or bool((position_ids.diff() == 1).all())


def _varlen_applies(query: Tensor, value: Tensor, position_bias: Tensor | None, dropout: float) -> bool:
    """Whether the flash kernel can serve: it knows half precision only, and neither bias nor dropout."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and position_bias is None
        and dropout == 0.0
        and query.shape[-1] == value.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
    )


def _attend_varlen(
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


@torch.compiler.disable  # a traced loop over documents would recompile for every batch
def _attend_grouped(
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
    """One unmasked call per group of documents of equal lengths; shapes as in ``document_attention``."""
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
            bias = None
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
    """Each document's square of a bias [1 or B, H, L_query, L_key], as [documents, H, queries, keys].

    It equals a lone document's bias because relative positions do not see where a document begins.
    """
    _, _, n_queries, n_keys = position_bias.shape
    rows = query_places[:, :1, None] // n_queries if position_bias.shape[0] > 1 else 0
    places = (rows * n_queries + query_places[:, :, None] % n_queries) * n_keys + key_places[:, None, :] % n_keys
    # One gather, because the backward of a slice is a full matrix of zeros for each document.
    flat_HL = position_bias.transpose(0, 1).flatten(1)
    return flat_HL.index_select(1, places.flatten()).unflatten(1, places.shape).transpose(0, 1)


AttentionInterface.register("document", document_attention)
AttentionInterface.register("document_math", partial(document_attention, math=True))
for _name in IMPLEMENTATIONS:
    AttentionMaskInterface.register(_name, document_mask)
