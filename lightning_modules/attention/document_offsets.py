"""Offsets of the documents in packed rows, by which a model's layers separate the documents."""

# B rows, L columns, D documents (padding included), H heads, E width of a head, T = B * L flattened tokens

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .span_groups import Plan, Span, Window, chunks, make_padded_plan, make_plan, pads_groups, prefix_and_continuations

AttentionKind = Literal["encoder", "decoder", "cross"]
"""Kind of attention: self-attention of an encoder or of a decoder, or cross-attention of a decoder to an encoder."""


class Sequences(NamedTuple):
    """Order of the tokens of packed rows in which sequences of equal length form one unpadded batch.

    A recurrent layer is called once for each of these batches. A sequence is a document, or a prefix followed by one of
    its continuations.

    Args:
        lengths: Tokens of a sequence, one number for each batch.
        sizes: Tokens of all sequences of a batch together, one number for each batch.
        order: int64 [sum of sizes], indices of the sequences' tokens in the flattened rows. A prefix appears once for
            each continuation.
        restore: int64 [T], the place of each token of the flattened rows in ``order``.
    """

    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    order: Tensor
    restore: Tensor


class Continuations(NamedTuple):
    """Token indices for attention from continuations (C tokens) to their prefixes (K tokens), for the varlen kernel.

    A prefix is e.g. a prompt, and its continuations are the options that may follow it.

    Args:
        indices: int64 [C], indices of the continuations' tokens in the flattened rows.
        offsets: int32 [D + 1], where each document's continuations start in ``indices``.
        prefix_indices: int64 [K], indices of the prefixes' tokens in the flattened rows.
        prefix_offsets: int32 [D + 1], where each document's prefix starts in ``prefix_indices``.
    """

    indices: Tensor
    offsets: Tensor
    prefix_indices: Tensor
    prefix_offsets: Tensor


class Documents:
    """Offsets of the documents of a packed batch, passed to a model's forward as the keyword ``documents``.

    Pass the same object to every layer of a forward: the grouping of documents by length is computed once and cached.

    A document may have several continuations, such as the options of a question. Each attends to the shared part and to
    itself, but not to the other continuations. In an encoder-decoder model the shared part is the encoder's document.
    In a decoder-only model it is the first part of the document, the prefix, and the positions of each continuation
    count on from it. A prefix of 3 tokens with continuations of 1 and 2 tokens::

        tokens          A   man  is  | tall | not tall       offsets               0                6
        position_ids    0    1    2  |  3   |  3    4        continuation_offsets  0       3  4     6

    Args:
        offsets: int [D + 1], where each document starts in the flattened rows, and B * L at the end. Padding counts as
            a document, and every row starts a document. In an encoder-decoder model these are the encoder's.
        decoder_offsets: int [D + 1], the same for the decoder's rows. Document d of the decoder attends to document d
            of the encoder. None for models with one stack.
        continuation_offsets: int [S + 1], where each prefix and each continuation starts, in the decoder's rows if
            there are two stacks. Every start of a document is among them. None if documents have no continuations.

    Raises:
        ValueError: Offsets are not integers of the shapes above, or the two stacks have different numbers of documents.
    """

    def __init__(
        self, offsets: Tensor, decoder_offsets: Tensor | None = None, continuation_offsets: Tensor | None = None
    ) -> None:
        named = {"offsets": offsets, "decoder_offsets": decoder_offsets, "continuation_offsets": continuation_offsets}
        for name, value in named.items():
            if value is not None and (value.ndim != 1 or len(value) < 2 or value.is_floating_point()):
                raise ValueError(f"{name} must be integers of shape [D + 1], got {value.dtype} {tuple(value.shape)}")
        if decoder_offsets is not None and len(decoder_offsets) != len(offsets):
            raise ValueError(
                f"encoder and decoder must have equally many documents, got {len(offsets) - 1} in the encoder "
                f"and {len(decoder_offsets) - 1} in the decoder"
            )
        self.offsets = offsets
        self.decoder_offsets = decoder_offsets
        self.continuation_offsets = continuation_offsets
        self._plans: dict[tuple[AttentionKind, Window | None, torch.device], Plan] = {}
        self._chunks: dict[tuple[int, torch.device], Tensor] = {}
        self._continuations: dict[torch.device, Continuations] = {}
        self._sequences: dict[torch.device, Sequences] = {}

    @property
    def has_shared_prefixes(self) -> bool:
        """Whether documents of a decoder-only model are prefixes with continuations, e.g. prompts with options."""
        return self.continuation_offsets is not None and self.decoder_offsets is None

    def query_and_key_offsets(self, kind: AttentionKind) -> tuple[Tensor, Tensor]:
        """Return where documents start among the queries and among the keys, for one kind of attention.

        Both are int [D + 1]: queries between two successive offsets attend to the keys between the same two. In a
        decoder-only model a document includes its continuations. In the decoder of an encoder-decoder model each
        continuation is a document, so that both are int [S + 1].
        """
        if kind == "encoder":
            return self.offsets, self.offsets
        if self.decoder_offsets is None:
            return self.offsets, self.offsets
        if kind == "cross":
            return self.decoder_offsets, self.offsets
        offsets = self.decoder_offsets if self.continuation_offsets is None else self.continuation_offsets
        return offsets, offsets

    def plan(self, kind: AttentionKind, query: Tensor, key: Tensor, window: Window | None = None) -> Plan:
        """Return which documents share an attention call, for queries [B, H, L_query, E] and keys [B, H, L_key, E].

        All layers of one kind of attention and one window use the same plan; it is computed at their first call.

        Args:
            kind: Self-attention of an encoder or a decoder, or cross-attention.
            query: The queries.
            key: The keys.
            window: Window of the layer; None for whole documents.

        Raises:
            ValueError: The offsets do not fit the rows.
        """
        entry = (kind, window, query.device)
        if entry not in self._plans:
            queries, keys = (offsets.tolist() for offsets in self.query_and_key_offsets(kind))
            for offsets, states in ((queries, query), (keys, key)):
                check_offsets(offsets, rows=states.shape[0], columns=states.shape[2])
            spans: Iterable[Span] = (Span(*q, *k) for q, k in zip(pairwise(queries), pairwise(keys), strict=True))
            if kind == "decoder" and self.has_shared_prefixes:
                spans = (span for pieces in self._pieces() for span in prefix_and_continuations(pieces))
            if window is not None and window.chunked:
                spans = (chunk for span in spans for chunk in chunks(span, window.size))
            if pads_groups(query.device) and not self.has_shared_prefixes and window is None:
                self._plans[entry] = make_padded_plan(list(spans), key.shape[2], query.device)
            else:
                self._plans[entry] = make_plan(list(spans), query.device, window, causal=kind == "decoder")
        return self._plans[entry]

    def chunk_offsets(self, size: int, device: torch.device) -> Tensor:
        """Return where the chunks of chunked attention start, int32 [number of chunks + 1] on the device.

        Each document of a model with one stack is divided into chunks of `size` tokens.
        """
        if (size, device) not in self._chunks:
            offsets = self.query_and_key_offsets("decoder")[0].tolist()
            starts = [start for document in pairwise(offsets) for start in range(*document, size)]
            self._chunks[size, device] = torch.tensor([*starts, offsets[-1]], dtype=torch.int32, device=device)
        return self._chunks[size, device]

    def sequences(self, device: torch.device) -> Sequences:
        """Return the token order in which a decoder's recurrent layers read sequences of equal length; cached."""
        if device not in self._sequences:
            stacks = defaultdict[int, list[Tensor]](list)
            documents: Iterable[list[int]] = self._pieces() if self.has_shared_prefixes else self._spans()
            for start, end, *ends in documents:
                prefix = torch.arange(start, end)
                for first, last in pairwise([end, *ends]) if ends else [(end, end)]:
                    stacks[end - start + last - first].append(torch.cat([prefix, torch.arange(first, last)]))
            order = torch.cat([sequence for stack in stacks.values() for sequence in stack])
            restore = torch.empty(int(self.offsets[-1]), dtype=torch.long)
            restore[order] = torch.arange(len(order))  # a prefix has the same outputs before every continuation
            sizes = tuple(length * len(stack) for length, stack in stacks.items())
            self._sequences[device] = Sequences(tuple(stacks), sizes, order.to(device), restore.to(device))
        return self._sequences[device]

    def continuations(self, device: torch.device) -> Continuations:
        """Return the token indices of a decoder-only model's continuations and their prefixes; cached."""
        if device not in self._continuations:
            ends = [(pieces[0], pieces[1], pieces[-1]) for pieces in self._pieces()]
            prefixes = [torch.arange(start, end) for start, end, _ in ends]
            continuations = [torch.arange(start, end) for _, start, end in ends]
            self._continuations[device] = Continuations(*_joined(continuations, device), *_joined(prefixes, device))
        return self._continuations[device]

    def _spans(self) -> Iterator[list[int]]:
        """Yield [start, end] of every document that has tokens."""
        return ([start, end] for start, end in pairwise(self.offsets.tolist()) if end > start)

    def _pieces(self) -> Iterator[list[int]]:
        """Yield, for every document, the start of its prefix, the starts of its continuations, and its end."""
        assert self.continuation_offsets is not None
        starts = self.continuation_offsets.tolist()
        if missing := sorted(set(self.offsets.tolist()) - set(starts)):
            raise ValueError(f"continuation_offsets lack the documents' starts {missing}, got {starts}")
        index = 0
        for start, end in pairwise(self.offsets.tolist()):
            pieces = [start]
            while pieces[-1] < end:
                index += 1
                if starts[index] <= pieces[-1]:
                    raise ValueError(f"prefixes and continuations must not be empty, got continuation_offsets {starts}")
                pieces.append(starts[index])
            if len(pieces) > 1:
                yield pieces


def _joined(indices: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0, *map(len, indices)], dtype=torch.int32)
    return torch.cat(list(indices)).to(device), lengths.cumsum(0, dtype=torch.int32).to(device)


def check_offsets(offsets: list[int], *, rows: int, columns: int) -> None:
    """Reject offsets that do not rise from 0 to rows * columns or that lack the start of a row.

    Raises:
        ValueError: Names the offsets, or the row starts that they lack.
    """
    row_starts = range(0, rows * columns + 1, columns)
    if offsets[0] != 0 or offsets[-1] != row_starts[-1] or any(end < start for start, end in pairwise(offsets)):
        raise ValueError(
            f"offsets must rise from 0 to {rows} rows * {columns} columns = {row_starts[-1]}, got {offsets}"
        )
    if crossed := sorted(set(row_starts) - set(offsets)):
        raise ValueError(f"a document cannot cross rows: offsets lack the row starts {crossed}, got {offsets}")
