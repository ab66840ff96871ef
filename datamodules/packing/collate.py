"""Documents to tensors: what a row of each kind measures, and how rows become a batch.

``CausalRows`` and ``Seq2SeqRows`` answer the same questions, so that mixture, packing and the training stream know
neither of them: how much of a row a document takes, how many of its tokens are targets, what is cut, and what the
batch looks like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..schema import IGNORE_INDEX, CausalBatch, ScoredBatch, Seq2SeqBatch, TokenizedExample

Lengths = NDArray[np.integer]
RowBatch = CausalBatch | Seq2SeqBatch | ScoredBatch


class Cuts(NamedTuple):
    """Documents longer than a row holds: bool [n] each."""

    truncated: NDArray[np.bool_]
    target_cut: NDArray[np.bool_]


class RowKind(Protocol):
    """What the training stream asks of a kind of row. `lengths` counts all tokens, `n_sources` the source's."""

    @property
    def capacity(self) -> int: ...
    def sizes(self, lengths: Lengths, n_sources: Lengths) -> Lengths: ...
    def target_counts(self, lengths: Lengths, n_sources: Lengths) -> Lengths: ...
    def real_tokens(self, lengths: Lengths, n_sources: Lengths) -> Lengths: ...
    def cuts(self, lengths: Lengths, n_sources: Lengths) -> Cuts: ...
    def collate(self, rows: Sequence[Sequence[TokenizedExample]], step_targets: int) -> RowBatch: ...

    @property
    def columns(self) -> int:
        """Columns of a row, encoder and decoder together."""
        ...


@dataclass(frozen=True)
class CausalRows:
    """Rows of `length` columns for a decoder-only model; a longer document keeps its last `length` tokens.

    The end is kept because the target stands there (OPT-IML, section 3.3). The first token of a document is never
    a target: nothing precedes it that belongs to the document.
    """

    length: int
    pad_token_id: int

    @property
    def capacity(self) -> int:
        return self.length

    @property
    def columns(self) -> int:
        return self.length

    def sizes(self, lengths: Lengths, n_sources: Lengths) -> Lengths:
        return np.minimum(lengths, self.length)

    def real_tokens(self, lengths: Lengths, n_sources: Lengths) -> Lengths:
        return self.sizes(lengths, n_sources)

    def target_counts(self, lengths: Lengths, n_sources: Lengths) -> Lengths:
        kept = self.sizes(lengths, n_sources)
        return kept - np.maximum(n_sources - (lengths - kept), 1)

    def cuts(self, lengths: Lengths, n_sources: Lengths) -> Cuts:
        return Cuts(lengths > self.length, lengths - n_sources > self.length)

    def collate(self, rows: Sequence[Sequence[TokenizedExample]], step_targets: int) -> CausalBatch:
        """Rows of documents to tensors; ``targets`` are shifted here, and nowhere else."""
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
                n_source = max(document.n_source - (len(document.input_ids) - len(ids)), 1)
                input_ids[r, column:end] = ids
                targets[r, column + n_source - 1 : end - 1] = ids[n_source:]
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
        )


@dataclass(frozen=True)
class Seq2SeqRows:
    """Rows of two capacities for an encoder-decoder model: sources in one, targets in the other.

    A document is measured by the capacity it uses up first. A longer source keeps its end, where the question
    stands; a longer target keeps its beginning, as generation would.
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

    def _kept(self, lengths: Lengths, n_sources: Lengths) -> tuple[Lengths, Lengths]:
        sources = np.minimum(n_sources, self.source_length)
        return sources, np.minimum(lengths - n_sources, self.target_length)

    def sizes(self, lengths: Lengths, n_sources: Lengths) -> Lengths:
        """Source columns, or the share of the target row in source columns, whichever is more."""
        sources, targets = self._kept(lengths, n_sources)
        return np.maximum(sources, -(-targets * self.source_length // self.target_length))

    def real_tokens(self, lengths: Lengths, n_sources: Lengths) -> Lengths:
        sources, targets = self._kept(lengths, n_sources)
        return sources + targets

    def target_counts(self, lengths: Lengths, n_sources: Lengths) -> Lengths:
        return self._kept(lengths, n_sources)[1]

    def cuts(self, lengths: Lengths, n_sources: Lengths) -> Cuts:
        target_cut = lengths - n_sources > self.target_length
        return Cuts((n_sources > self.source_length) | target_cut, target_cut)

    def collate(self, rows: Sequence[Sequence[TokenizedExample]], step_targets: int) -> Seq2SeqBatch:
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
        )
