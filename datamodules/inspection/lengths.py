"""Histograms of documents' lengths in tokens, and numbers of truncated documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..packing.collate import RowKind, Seq2SeqRows
from ..scoring.pair_rows import ScoredRows


class Bin(NamedTuple):
    """Bar of a histogram: the number of documents of `first` to `last` tokens, both included."""

    first: int
    last: int
    documents: int


@dataclass(frozen=True)
class LengthHistogram:
    """Histogram of the lengths of sources, of targets or of whole documents.

    Args:
        name: Name of the measured part, e.g. ``"source"``.
        bins: Bars without gaps, from the shortest to the longest length; each is twice as wide as the one before.
        shortest: Shortest length, in tokens.
        median: Median length, in tokens.
        longest: Longest length, in tokens.
        limit: Maximum number of tokens of the part that fit into a row; None if the part has no limit by itself.
        over: Number of documents whose part is longer than the limit.
    """

    name: str
    bins: tuple[Bin, ...]
    shortest: int
    median: float
    longest: int
    limit: int | None = None
    over: int = 0


def length_histogram(name: str, lengths: NDArray[np.integer], limit: int | None = None) -> LengthHistogram:
    """Return the histogram of lengths, with bins that double in width, since most lengths are short and few very long.

    Args:
        name: Name of the measured part.
        lengths: int [n], tokens of each document's part.
        limit: Maximum number of tokens that fit into a row; None for no limit.

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
class DocumentLengths:
    """Histograms of the lengths of training examples in tokens, and numbers of truncated and skipped ones.

    Args:
        documents: Number of measured documents.
        of: Number of all documents.
        histograms: Histograms of source, target and document, as far as they have limits of their own.
        cut: Number of measured documents that are truncated.
        target_cut: Number of measured documents whose target is truncated.
        skipped: Number of skipped examples, by reason.
    """

    documents: int
    of: int
    histograms: Sequence[LengthHistogram]
    cut: int
    target_cut: int
    skipped: Mapping[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """Return the numbers of truncated documents and skipped examples as a sentence."""
        measured = f"{self.documents:,} documents" + (f" of {self.of:,}" if self.of > self.documents else "")
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.skipped.items())) or "none"
        return f"{measured}: {self.cut:,} are cut, {self.target_cut:,} of their targets; examples skipped: {skipped}"


def histograms(kind: RowKind, lengths: NDArray[np.integer], n_sources: NDArray[np.integer]) -> list[LengthHistogram]:
    """Return histograms of the lengths of sources and targets; for scored pairs, of instructions and responses.

    A histogram of whole documents is added if only their length is limited, as for a decoder-only model.

    Args:
        kind: Layout of the rows of a decoder-only model, an encoder-decoder or a scorer, which has the limits.
        lengths: int [n], tokens of each document.
        n_sources: int [n], source tokens of each document.
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
