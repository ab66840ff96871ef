"""Histograms of lengths in tokens, with bins whose borders double: most lengths are short, and a few are very long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..packing.collate import RowKind, Seq2SeqRows
from ..scoring.pair_rows import ScoredRows


class Bin(NamedTuple):
    """A bar of a histogram: the number of documents of `first` to `last` tokens."""

    first: int
    last: int
    documents: int


@dataclass(frozen=True)
class LengthHistogram:
    """Lengths of one part of documents.

    Args:
        name: The part, e.g. ``"source"``.
        bins: Bars without gaps, from the shortest to the longest length.
        shortest: Shortest length, in tokens.
        median: Median length.
        longest: Longest length.
        limit: Most tokens that a row takes; None if there is no limit of this part alone.
        over: Number of documents longer than the limit.
    """

    name: str
    bins: tuple[Bin, ...]
    shortest: int
    median: float
    longest: int
    limit: int | None = None
    over: int = 0


def length_histogram(name: str, lengths: NDArray[np.integer], limit: int | None = None) -> LengthHistogram:
    """The histogram of some lengths.

    >>> length_histogram("source", np.array([0, 1, 5, 6, 9]), limit=8).bins
    (Bin(first=0, last=0, documents=1), Bin(first=1, last=1, documents=1), Bin(first=2, last=3, documents=0),
     Bin(first=4, last=7, documents=2), Bin(first=8, last=15, documents=1))
    """
    if not len(lengths):
        return LengthHistogram(name, (), 0, 0.0, 0, limit)
    places = np.ceil(np.log2(lengths.astype(np.float64) + 1)).astype(np.int64)  # 0; 1; 2 and 3; 4 to 7; ...
    counts = np.bincount(places)
    bins = tuple(
        Bin(2 ** (place - 1) if place else 0, 2**place - 1, int(counts[place]))
        for place in range(int(places.min()), len(counts))
    )
    over = 0 if limit is None else int(np.count_nonzero(lengths > limit))
    shortest, longest = int(lengths.min()), int(lengths.max())
    return LengthHistogram(name, bins, shortest, float(np.median(lengths)), longest, limit, over)


@dataclass(frozen=True)
class Lengths:
    """Lengths of training documents, and those that are cut or skipped.

    Args:
        documents: Number of measured documents.
        of: Number of all documents.
        histograms: A histogram for each part.
        cut: Documents that lose a part of their source or target.
        target_cut: Documents that lose a part of their target.
        skipped: Examples that are no documents, by reason.
    """

    documents: int
    of: int
    histograms: Sequence[LengthHistogram]
    cut: int
    target_cut: int
    skipped: Mapping[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """The numbers of cut documents and skipped examples, as a sentence."""
        measured = f"{self.documents:,} documents" + (f" of {self.of:,}" if self.of > self.documents else "")
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.skipped.items())) or "none"
        return f"{measured}: {self.cut:,} are cut, {self.target_cut:,} of their targets; examples skipped: {skipped}"


def histograms(kind: RowKind, lengths: NDArray[np.integer], n_sources: NDArray[np.integer]) -> list[LengthHistogram]:
    """A histogram of each part of documents, with the limit of its row.

    Args:
        kind: The kind of row, with its capacity.
        lengths: int [n], tokens of each document.
        n_sources: int [n], how many of them are source.
    """
    targets = lengths - n_sources
    if isinstance(kind, Seq2SeqRows):
        source = length_histogram("source (encoder)", n_sources, kind.source_length)
        return [source, length_histogram("target (decoder)", targets, kind.target_length)]
    if isinstance(kind, ScoredRows):
        parts = [length_histogram("instruction", n_sources), length_histogram("response", targets)]
        return [*parts, length_histogram("pair", lengths, kind.pair_length)]
    parts = [length_histogram("source", n_sources), length_histogram("target", targets)]
    return [*parts, length_histogram("document", lengths, kind.capacity)]
