"""Collation of packed rows into batches of tensors, for decoder-only and encoder-decoder models.

``CausalRows`` and ``Seq2SeqRows`` implement the Protocol ``RowKind``: how many columns of a row a document takes, its
number of targets, its truncation, and the batch. Mixture, packing and training stream depend on the Protocol only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..schema import IGNORE_INDEX, CausalBatch, ScoredBatch, Seq2SeqBatch, TokenizedExample

Integers = NDArray[np.integer]
NO_HOLES: Integers = np.empty((0, 3), dtype=np.int64)
RowBatch = CausalBatch | Seq2SeqBatch | ScoredBatch


class Cuts(NamedTuple):
    """Which of n tokenized examples (documents) are truncated.

    Args:
        truncated: bool [n], whether a document is longer than a row and loses tokens.
        target_cut: bool [n], whether some of the lost tokens are targets.
    """

    truncated: NDArray[np.bool_]
    target_cut: NDArray[np.bool_]


class RowKind(Protocol):
    """Interface of the layouts of packed rows: one for decoder-only models, one for encoder-decoders, one for scorers.

    A document is a tokenized example: source tokens, which have no loss, then target tokens. Methods take arrays over n
    documents: `lengths` int [n], tokens of each document, and `n_sources` int [n], its source tokens. In a conversation
    with several targets, the tokens between two targets have no loss either: `holes` int [h, 3] lists them as
    (document, begin, end), positions in the document, end exclusive.
    """

    @property
    def capacity(self) -> int:
        """Columns of a row that documents can fill; of an encoder-decoder model, columns of an encoder row."""
        ...

    @property
    def columns(self) -> int:
        """Columns of a row, encoder and decoder together."""
        ...

    def sizes(self, lengths: Integers, n_sources: Integers) -> Integers:
        """Return int [n]: columns of a row that each document takes, at most ``capacity``."""
        ...

    def target_counts(self, lengths: Integers, n_sources: Integers, holes: Integers = NO_HOLES) -> Integers:
        """Return int [n]: trained tokens of each document, after truncation."""
        ...

    def real_tokens(self, lengths: Integers, n_sources: Integers) -> Integers:
        """Return int [n]: tokens of each document, after truncation."""
        ...

    def cuts(self, lengths: Integers, n_sources: Integers) -> Cuts:
        """Return which of n documents are truncated, and which of them lose target tokens."""
        ...

    def collate(self, rows: Sequence[Sequence[TokenizedExample]], step_targets: int) -> RowBatch:
        """Return the batch of some rows.

        Args:
            rows: The documents of each row.
            step_targets: Number of targets in the whole optimizer step, which divides the loss of each batch.
        """
        ...


def pinned(batch: Any) -> Any:
    """Return a batch with its tensors copied to pinned memory, from which a GPU copies asynchronously.

    Args:
        batch: A NamedTuple, whose fields may be tensors, NamedTuples of tensors, or other values, which are kept.
    """
    if isinstance(batch, torch.Tensor):
        return batch.pin_memory()
    if isinstance(batch, tuple) and type(batch) is not tuple:  # a NamedTuple
        return type(batch)(*map(pinned, batch))
    return batch


def places_of_targets(targets: NDArray[np.int64]) -> torch.Tensor:
    """Return the indices of the trained columns in the flattened rows, int64 [N].

    >>> places_of_targets(np.array([[-100, 7], [8, -100]]))
    tensor([1, 2])

    Args:
        targets: int64 [B, L], the target of each column, or -100 (``IGNORE_INDEX``) if nothing is trained there.
    """
    return torch.from_numpy(np.flatnonzero(targets != IGNORE_INDEX))


def holes_of(documents: Sequence[TokenizedExample]) -> Integers:
    """Return which tokens between the trained answers of conversations have no loss, as int64 [h, 3].

    Each of the h rows is (index of the document, begin, end), positions in the document, end exclusive.
    """
    holes = [(place, *hole) for place, document in enumerate(documents) for hole in document.holes]
    return np.array(holes, dtype=np.int64) if holes else NO_HOLES


@dataclass(frozen=True)
class CausalRows:
    """Builds batches of packed rows for a decoder-only model.

    A document (a tokenized example) longer than a row keeps its last `length` tokens. The end is kept because it holds
    the target (OPT-IML, arXiv 2212.12017, section 3.3). The first token of a document is never a target, since no token
    of the document precedes it.

    Args:
        length: Columns of a row.
        pad_token_id: Token id of padding.
    """

    length: int
    pad_token_id: int

    @property
    def capacity(self) -> int:
        return self.length

    @property
    def columns(self) -> int:
        return self.length

    def sizes(self, lengths: Integers, n_sources: Integers) -> Integers:
        return np.minimum(lengths, self.length)

    def real_tokens(self, lengths: Integers, n_sources: Integers) -> Integers:
        return self.sizes(lengths, n_sources)

    def target_counts(self, lengths: Integers, n_sources: Integers, holes: Integers = NO_HOLES) -> Integers:
        kept = self.sizes(lengths, n_sources)
        first = np.maximum(n_sources - (lengths - kept), 1)
        counts = kept - first
        if len(holes):
            document, begin, end = np.asarray(holes).T
            cut = (lengths - kept)[document]
            np.subtract.at(counts, document, np.maximum(end - np.maximum(begin, first[document] + cut), 0))
        return counts

    def cuts(self, lengths: Integers, n_sources: Integers) -> Cuts:
        return Cuts(lengths > self.length, lengths - n_sources > self.length)

    def collate(self, rows: Sequence[Sequence[TokenizedExample]], step_targets: int) -> CausalBatch:
        """Return the batch of some rows, with ``targets`` shifted by one column: the only place where they are shifted.

        Args:
            rows: The documents of each row.
            step_targets: Number of targets in the whole optimizer step.
        """
        shape = (len(rows), self.length)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        targets = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        position_ids = np.zeros(shape, dtype=np.int64)
        offsets = []
        n_tokens = 0
        for r, row in enumerate(rows):
            column = 0
            for document in row:
                ids = document.input_ids[-self.length :]
                end = column + len(ids)
                cut = len(document.input_ids) - len(ids)
                n_source = max(document.n_source - cut, 1)
                input_ids[r, column:end] = ids
                targets[r, column + n_source - 1 : end - 1] = ids[n_source:]
                for hole_begin, hole_end in document.holes:
                    begins, ends = max(hole_begin - cut, n_source), max(hole_end - cut, n_source)
                    targets[r, column + begins - 1 : column + ends - 1] = IGNORE_INDEX
                position_ids[r, column:end] = np.arange(len(ids))
                offsets.append(r * self.length + column)
                column = end
            n_tokens += column
            if column < self.length:  # padding is a document too
                offsets.append(r * self.length + column)
                position_ids[r, column:] = np.arange(self.length - column)
        offsets.append(len(rows) * self.length)
        return CausalBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy(targets),
            torch.from_numpy(position_ids),
            torch.tensor(offsets, dtype=torch.int32),
            step_targets,
            n_documents=sum(map(len, rows)),
            n_tokens=n_tokens,
            target_places=places_of_targets(targets),
        )


@dataclass(frozen=True)
class Seq2SeqRows:
    """Builds batches of packed rows for an encoder-decoder model: sources in encoder rows, targets in decoder rows.

    A source that is too long keeps its end, which has the question. A target that is too long keeps its beginning, as
    generation does.

    Args:
        source_length: Columns of an encoder row.
        target_length: Columns of a decoder row.
        pad_token_id: Token id of padding.
    """

    source_length: int
    target_length: int
    pad_token_id: int

    @property
    def capacity(self) -> int:
        return self.source_length

    @property
    def columns(self) -> int:
        return self.source_length + self.target_length

    def _kept(self, lengths: Integers, n_sources: Integers) -> tuple[Integers, Integers]:
        sources = np.minimum(n_sources, self.source_length)
        return sources, np.minimum(lengths - n_sources, self.target_length)

    def sizes(self, lengths: Integers, n_sources: Integers) -> Integers:
        """Return the columns of an encoder row that each document takes, int [n].

        A document whose target takes a larger share of the decoder row counts with that share of an encoder row.
        """
        sources, targets = self._kept(lengths, n_sources)
        return np.maximum(sources, -(-targets * self.source_length // self.target_length))

    def real_tokens(self, lengths: Integers, n_sources: Integers) -> Integers:
        sources, targets = self._kept(lengths, n_sources)
        return sources + targets

    def target_counts(self, lengths: Integers, n_sources: Integers, holes: Integers = NO_HOLES) -> Integers:
        return self._kept(lengths, n_sources)[1]

    def cuts(self, lengths: Integers, n_sources: Integers) -> Cuts:
        target_cut = lengths - n_sources > self.target_length
        return Cuts((n_sources > self.source_length) | target_cut, target_cut)

    def collate(self, rows: Sequence[Sequence[TokenizedExample]], step_targets: int) -> Seq2SeqBatch:
        """Return the batch of some rows.

        Args:
            rows: The documents of each row.
            step_targets: Number of targets in the whole optimizer step.
        """
        input_ids = np.full((len(rows), self.source_length), self.pad_token_id, dtype=np.int64)
        targets = np.full((len(rows), self.target_length), IGNORE_INDEX, dtype=np.int64)
        offsets, target_offsets = [], []
        n_tokens = 0
        for r, row in enumerate(rows):
            column = target_column = 0
            for document in row:
                source = document.input_ids[: document.n_source][-self.source_length :]
                target = document.input_ids[document.n_source :][: self.target_length]
                offsets.append(r * self.source_length + column)
                target_offsets.append(r * self.target_length + target_column)
                input_ids[r, column : column + len(source)] = source
                targets[r, target_column : target_column + len(target)] = target
                column, target_column = column + len(source), target_column + len(target)
            n_tokens += column + target_column
            # Encoder padding is a document too, with whatever the decoder has left. Where the encoder row is full,
            # the decoder's padding stays with the last document: causal attention hides it from the targets.
            if column < self.source_length:
                offsets.append(r * self.source_length + column)
                target_offsets.append(r * self.target_length + target_column)
        offsets.append(len(rows) * self.source_length)
        target_offsets.append(len(rows) * self.target_length)
        return Seq2SeqBatch(
            torch.from_numpy(input_ids),
            torch.tensor(offsets, dtype=torch.int32),
            torch.from_numpy(targets),
            torch.tensor(target_offsets, dtype=torch.int32),
            step_targets,
            n_documents=sum(map(len, rows)),
            n_tokens=n_tokens,
            target_places=places_of_targets(targets),
        )
