"""Where the documents of packed rows lie, and the order in which equally long ones are attended together."""

# B rows, L columns, D documents (padding included), H heads, E width of a head, T = B * L flattened tokens

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["encoder", "decoder", "cross"]
"""Which documents ask, and which answer: encoder-encoder, decoder-decoder, or decoder-encoder."""


class Span(NamedTuple):
    """Queries and the keys they read, as places in flattened rows; `branches` are lengths of what is after a trunk."""

    query_start: int
    query_end: int
    key_start: int
    key_end: int
    branches: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        """Spans of one shape are attended in one call."""
        return self.query_end - self.query_start, self.key_end - self.key_start, self.branches


class Group(NamedTuple):
    """Spans of one shape, attended in one call; `mask` is bool [queries, keys] where they are branches of a trunk."""

    documents: int
    queries: int
    keys: int
    mask: Tensor | None = None


class Plan(NamedTuple):
    """The order that puts documents of equal lengths side by side, and the way back.

    Args:
        groups: One per shape, in the order of the reordered tokens.
        query_order: int64 [T_query], places of the queries in the flattened rows.
        key_order: int64 [any], places of the keys; those that no query reads are left out, trunks come twice.
        restore: int64 [T_query], the inverse of ``query_order``.
    """

    groups: tuple[Group, ...]
    query_order: Tensor
    key_order: Tensor
    restore: Tensor


class Branches(NamedTuple):
    """What branches read beside themselves, for a kernel that takes offsets: C tokens of branches, K of trunks.

    Args:
        places: int64 [C], tokens of branches in the flattened rows.
        offsets: int32 [D + 1], the documents among them.
        trunk_places: int64 [K], tokens of trunks.
        trunk_offsets: int32 [D + 1], the documents among them.
    """

    places: Tensor
    offsets: Tensor
    trunk_places: Tensor
    trunk_offsets: Tensor


class Documents:
    """Where the documents of a packed batch lie, passed to a model's forward as the keyword ``documents``.

    One object serves every layer of one forward: the order in which documents of equal lengths are attended
    together is worked out once and kept here.

    Several continuations of one document are its branches: each reads what they share and itself, as if it stood there
    alone. What a decoder's branches share is the encoder's document. In a model of one stack it is the document's first
    piece, the trunk, and positions continue from it in every branch. A trunk of 3 tokens with branches of 1 and 2::

        tokens          A   man  is  | tall | not tall       offsets         0                6
        position_ids    0    1    2  |  3   |  3    4        branch_offsets  0       3  4     6

    Args:
        offsets: int [D + 1], where documents start in the flattened rows, padding included; every row's start
            is among them and the last is B * L. In an encoder-decoder model these are the encoder's.
        decoder_offsets: int [D + 1], the same of the decoder's rows; document d of the decoder reads document
            d of the encoder. None for models of one stack.
        branch_offsets: int [S + 1], where trunks and branches start in the rows that predict (the decoder's, or the
            only ones); every document's start is among them. None where documents have no branches.
    """

    def __init__(
        self, offsets: Tensor, decoder_offsets: Tensor | None = None, branch_offsets: Tensor | None = None
    ) -> None:
        named = {"offsets": offsets, "decoder_offsets": decoder_offsets, "branch_offsets": branch_offsets}
        for name, given in named.items():
            if given is not None and (given.ndim != 1 or len(given) < 2 or given.is_floating_point()):
                raise ValueError(f"{name} must be integers of shape [D + 1], got {given.dtype} {tuple(given.shape)}")
        if decoder_offsets is not None and len(decoder_offsets) != len(offsets):
            raise ValueError(
                f"encoder and decoder must hold the same documents, got {len(offsets) - 1} in the encoder "
                f"and {len(decoder_offsets) - 1} in the decoder"
            )
        self.offsets = offsets
        self.decoder_offsets = decoder_offsets
        self.branch_offsets = branch_offsets
        self._plans: dict[tuple[Kind, torch.device], Plan] = {}
        self._branches: dict[torch.device, Branches] = {}

    @property
    def has_trunks(self) -> bool:
        """Whether branches share a trunk in their own rows."""
        return self.branch_offsets is not None and self.decoder_offsets is None

    def sides(self, kind: Kind) -> tuple[Tensor, Tensor]:
        """Offsets of the queries and of the keys, of equal lengths; those of whole documents where they have trunks."""
        if kind == "encoder":
            return self.offsets, self.offsets
        if self.decoder_offsets is None:
            return self.offsets, self.offsets
        if kind == "cross":
            return self.decoder_offsets, self.offsets
        own = self.decoder_offsets if self.branch_offsets is None else self.branch_offsets
        return own, own

    def plan(self, kind: Kind, query: Tensor, key: Tensor) -> Plan:
        """The grouping for queries [B, H, L_query, E] and keys [B, H, L_key, E], made on the first call."""
        if (kind, query.device) not in self._plans:
            queries, keys = (offsets.tolist() for offsets in self.sides(kind))
            for offsets, states in ((queries, query), (keys, key)):
                check_offsets(offsets, rows=states.shape[0], columns=states.shape[2])
            spans = [Span(*q, *k) for q, k in zip(pairwise(queries), pairwise(keys), strict=True)]
            if kind == "decoder" and self.has_trunks:
                spans = [span for pieces in self._pieces() for span in _trunk_and_branches(pieces)]
            self._plans[kind, query.device] = make_plan(spans, query.device)
        return self._plans[kind, query.device]

    def branches(self, device: torch.device) -> Branches:
        """Where branches and trunks lie, made on the first call; for models of one stack."""
        if device not in self._branches:
            ends = [(pieces[0], pieces[1], pieces[-1]) for pieces in self._pieces()]
            trunks = [torch.arange(start, end) for start, end, _ in ends]
            branches = [torch.arange(start, end) for _, start, end in ends]
            self._branches[device] = Branches(*_joined(branches, device), *_joined(trunks, device))
        return self._branches[device]

    def _pieces(self) -> Iterator[list[int]]:
        """Of every document: where its trunk starts, where each branch starts, and its end."""
        assert self.branch_offsets is not None
        starts = self.branch_offsets.tolist()
        if missing := sorted(set(self.offsets.tolist()) - set(starts)):
            raise ValueError(f"branch_offsets lack the documents' starts {missing}, got {starts}")
        place = 0
        for start, end in pairwise(self.offsets.tolist()):
            pieces = [start]
            while pieces[-1] < end:
                place += 1
                if starts[place] <= pieces[-1]:
                    raise ValueError(f"trunks and branches hold a token at least, got branch_offsets {starts}")
                pieces.append(starts[place])
            if len(pieces) > 1:
                yield pieces


def _trunk_and_branches(pieces: Sequence[int]) -> Iterator[Span]:
    start, branches, end = pieces[0], pieces[1], pieces[-1]
    yield Span(start, branches, start, branches)
    if end > branches:
        yield Span(branches, end, start, end, tuple(b - a for a, b in pairwise(pieces[1:])))


def _joined(places: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0, *map(len, places)], dtype=torch.int32)
    return torch.cat(list(places)).to(device), lengths.cumsum(0, dtype=torch.int32).to(device)


def check_offsets(offsets: list[int], *, rows: int, columns: int) -> None:
    row_starts = range(0, rows * columns + 1, columns)
    if offsets[0] != 0 or offsets[-1] != row_starts[-1] or any(end < start for start, end in pairwise(offsets)):
        raise ValueError(
            f"offsets must rise from 0 to {rows} rows * {columns} columns = {row_starts[-1]}, got {offsets}"
        )
    if crossed := sorted(set(row_starts) - set(offsets)):
        raise ValueError(f"a document cannot cross rows: offsets lack the row starts {crossed}, got {offsets}")


def make_plan(spans: Sequence[Span], device: torch.device) -> Plan:
    """The grouping of spans by their shape; those without queries are left out."""
    starts = defaultdict[tuple[int, int, tuple[int, ...]], list[tuple[int, int]]](list)
    for span in spans:
        if span.query_end > span.query_start:
            starts[span.shape].append((span.query_start, span.key_start))

    def places(side: int) -> Tensor:
        return torch.cat(
            [
                (torch.tensor(members)[:, side, None] + torch.arange(shape[side])).flatten()  # type: ignore[arg-type]
                for shape, members in starts.items()
            ]
        )

    query_order = places(0)
    return Plan(
        groups=tuple(
            Group(len(members), queries, keys, branch_mask(keys - queries, lengths).to(device) if lengths else None)
            for (queries, keys, lengths), members in starts.items()
        ),
        query_order=query_order.to(device),
        key_order=places(1).to(device),
        restore=query_order.argsort().to(device),
    )


def branch_mask(trunk: int, branches: Sequence[int]) -> Tensor:
    """Which keys the tokens of branches read: bool [queries, trunk + queries].

    A trunk of 2 tokens with branches of 1 and 2:

    >>> branch_mask(2, [1, 2]).int()
    tensor([[1, 1, 1, 0, 0],
            [1, 1, 0, 1, 0],
            [1, 1, 0, 1, 1]], dtype=torch.int32)
    """
    own = torch.block_diag(*(torch.ones(length, length).tril() for length in branches))
    return torch.cat([torch.ones(len(own), trunk), own], dim=1).bool()


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
