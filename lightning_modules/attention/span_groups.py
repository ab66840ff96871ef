"""Groups of spans (queries and their keys) of equal or similar shape; each group is attended in one call.

A span is a document of a packed row. A document with a shared prefix, such as a prompt with several options, is two
spans: the prefix, and its continuations (the options), whose keys include the prefix.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Sliding-window or chunked attention: restricts the queries of a layer to nearby tokens of their document.

    The layers get this object in place of a mask. Models may index their mask (Gemma 4 keeps the queries of the last
    columns), so indexing returns the window itself.

    Args:
        size: In a decoder, the number of tokens that a query attends to, itself included. In an encoder, the largest
            distance on either side. With `chunked`, the length of a chunk.
        chunked: Whether a document is cut into chunks of `size` tokens, and a query attends to its chunk only.
    """

    size: int
    chunked: bool = False

    def __getitem__(self, columns: object) -> "Window":
        return self


class Span(NamedTuple):
    """A range of queries and the range of keys they attend to, as indices into the flattened rows [B * L].

    If the queries are several continuations of a prefix, such as the options of a prompt, `continuations` has their
    lengths.
    """

    query_start: int
    query_end: int
    key_start: int
    key_end: int
    continuations: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        """(queries, keys, lengths of continuations): spans of equal shape are attended in one call."""
        return self.query_end - self.query_start, self.key_end - self.key_start, self.continuations


class Group(NamedTuple):
    """Spans (queries and their keys) of equal shape that are attended in one call.

    Args:
        documents: Number of spans.
        queries: Queries of each span.
        keys: Keys of each span.
        mask: bool, True where a query attends to a key: [queries, keys] for continuations and windows, [documents, 1,
            1, keys] if shorter documents are padded. None if every query attends to every key, or causally.
    """

    documents: int
    queries: int
    keys: int
    mask: Tensor | None = None


class Plan(NamedTuple):
    """Groups of documents that are attended in one call each, and the token order in which a group is contiguous.

    Args:
        groups: In the order of the permuted tokens.
        query_order: int64 [T_query], indices of the queries in the flattened rows.
        key_order: int64, indices of the keys in the flattened rows. Keys that no query attends to are missing, keys of
            prefixes occur twice.
        restore: int64 [T_query], the place of each token in ``query_order``.
        padded: Whether documents are padded to the length of their group, by repeating their last token.
    """

    groups: tuple[Group, ...]
    query_order: Tensor
    key_order: Tensor
    restore: Tensor
    padded: bool = False


def prefix_and_continuations(pieces: Sequence[int]) -> Iterator[Span]:
    """Yield the two spans of a document: its prefix, and all its continuations, whose keys include the prefix.

    >>> list(prefix_and_continuations([0, 3, 4, 6]))
    [Span(query_start=0, query_end=3, key_start=0, key_end=3, continuations=()),
     Span(query_start=3, query_end=6, key_start=0, key_end=6, continuations=(1, 2))]

    Args:
        pieces: Start of the prefix, start of each continuation, and end of the document, as indices of tokens.
    """
    start, prefix_end, end = pieces[0], pieces[1], pieces[-1]
    yield Span(start, prefix_end, start, prefix_end)
    if end > prefix_end:
        yield Span(prefix_end, end, start, end, tuple(b - a for a, b in pairwise(pieces[1:])))


def chunks(span: Span, size: int) -> Iterator[Span]:
    """Yield the chunks of `size` tokens of a document; continuations stay one span, which a mask divides."""
    if span.continuations:
        yield span
        return
    for start in range(span.query_start, span.query_end, size):
        end = min(start + size, span.query_end)
        yield Span(start, end, start, end)


def make_plan(
    spans: Sequence[Span], device: torch.device, window: Window | None = None, *, causal: bool = True
) -> Plan:
    """Group spans of equal shape, so that each group is attended in one call; spans without queries are left out.

    Args:
        spans: Documents, prefixes and continuations of the batch.
        device: Device of the plan's tensors.
        window: Window of the layer; None if queries attend to their whole document.
        causal: Whether a query attends to no later token.
    """
    starts = defaultdict[tuple[int, int, tuple[int, ...]], list[tuple[int, int]]](list)
    for span in spans:
        if span.query_end > span.query_start:
            starts[span.shape].append((span.query_start, span.key_start))

    def indices(side: int) -> Tensor:
        return torch.cat(
            [
                (torch.tensor(members)[:, side, None] + torch.arange(shape[side])).flatten()  # type: ignore[arg-type]
                for shape, members in starts.items()
            ]
        )

    query_order = indices(0)
    return Plan(
        groups=tuple(
            Group(len(members), shape[0], shape[1], _group_mask(shape, window, causal, device))
            for shape, members in starts.items()
        ),
        query_order=query_order.to(device),
        key_order=indices(1).to(device),
        restore=query_order.argsort().to(device),
    )


def pads_groups(device: torch.device) -> bool:
    """Return whether documents of similar lengths share a call: true on a GPU, where many small calls are slow."""
    return device.type == "cuda"


def filled_length(length: int, longest: int) -> int:
    """Return the length a document is padded to: at least 16, else below 1.5 times its own, and at most the row's.

    >>> [filled_length(length, 2048) for length in (0, 1, 17, 25, 100, 2000)], filled_length(50, 60)
    ([0, 16, 24, 32, 128, 2048], 60)
    """
    if length == 0:
        return 0
    power = max(16, 1 << (length - 1).bit_length())
    return min(power * 3 // 4 if power > 16 and length <= power * 3 // 4 else power, longest)


def make_padded_plan(spans: Sequence[Span], longest: int, device: torch.device) -> Plan:
    """Group spans of similar length and pad them to one length, so that a GPU attends to many of them in one call.

    There are two padded lengths for each power of two. This is for attention with dropout or a position bias, which has
    no varlen kernel; one call per exact length would be thousands of small operations in a step. Spans without queries
    are left out.

    Args:
        spans: Spans of whole documents, without continuations.
        longest: Columns of a row of keys.
        device: Device of the indices.
    """
    members = defaultdict[tuple[int, int], list[Span]](list)
    for span in spans:
        queries, keys, _ = span.shape
        if queries:
            members[filled_length(queries, max(longest, queries)), filled_length(keys, longest)].append(span)
    groups, query_order, key_order, slots, tokens, first = [], [], [], [], [], 0
    for (queries, keys), group in members.items():
        bounds = torch.tensor([span[:4] for span in group])
        query_start, query_end, key_start, key_end = bounds.T[:, :, None]
        query_places, key_places = torch.arange(queries), torch.arange(keys)
        own_DQ = query_places < query_end - query_start
        query_order.append(torch.minimum(query_start + query_places, query_end - 1).flatten())
        key_order.append(torch.minimum(key_start + key_places, key_end - 1).flatten())
        slots.append(first + own_DQ.flatten().nonzero().flatten())
        tokens.append(query_order[-1][own_DQ.flatten()])
        mask = (key_places < key_end - key_start)[:, None, None]
        groups.append(Group(len(group), queries, keys, mask.to(device)))
        first += len(group) * queries
    return Plan(
        tuple(groups),
        query_order=torch.cat(query_order).to(device),
        key_order=torch.cat(key_order).to(device),
        restore=torch.cat(slots)[torch.cat(tokens).argsort()].to(device),
        padded=True,
    )


def _group_mask(
    shape: tuple[int, int, tuple[int, ...]], window: Window | None, causal: bool, device: torch.device
) -> Tensor | None:
    queries, keys, continuations = shape
    if not continuations and (window is None or keys <= window.size):
        return None
    key_positions = torch.arange(keys, device=device)
    if not continuations:
        assert window is not None
        return window_mask(key_positions, key_positions, window, causal=causal)
    mask = continuation_mask(keys - queries, continuations).to(device)
    if window is None:
        return mask
    prefix = keys - queries
    key_positions = torch.cat([torch.arange(prefix), *(prefix + torch.arange(n) for n in continuations)]).to(device)
    return mask & window_mask(key_positions[prefix:], key_positions, window, causal=True)


def window_mask(query_positions: Tensor, key_positions: Tensor, window: Window, *, causal: bool) -> Tensor:
    """Return which keys of their document queries attend to: bool [queries, keys], True where a query attends.

    >>> window_mask(torch.arange(4), torch.arange(4), Window(2), causal=True).int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    >>> window_mask(torch.arange(4), torch.arange(4), Window(2, chunked=True), causal=True).int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)

    Args:
        query_positions: int64 [queries], positions in the document.
        key_positions: int64 [keys], positions in the same document.
        window: Size and kind of the window.
        causal: Whether a query attends to no later key.
    """
    distance = query_positions[:, None] - key_positions
    if window.chunked:
        near = query_positions[:, None] // window.size == key_positions // window.size
    else:
        near = distance < window.size if causal else distance.abs() <= window.size
    return near & (distance >= 0) if causal else near


def continuation_mask(prefix: int, continuations: Sequence[int]) -> Tensor:
    """Return which keys the tokens of continuations attend to: bool [tokens, prefix + tokens], True for attended keys.

    A prefix of 2 tokens with continuations of 1 and 2 tokens:

    >>> continuation_mask(2, [1, 2]).int()
    tensor([[1, 1, 1, 0, 0],
            [1, 1, 0, 1, 0],
            [1, 1, 0, 1, 1]], dtype=torch.int32)
    """
    within = torch.block_diag(*(torch.ones(length, length).tril() for length in continuations))
    return torch.cat([torch.ones(len(within), prefix), within], dim=1).bool()
