"""Rows of one instance each: truncates the sources of documents, and pads the rows to the longest of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..packing.collate import CausalRows, Seq2SeqRows, holes_of
from ..packing.replicas import Replicas
from ..schema import CausalBatch, Seq2SeqBatch, TokenizedExample

LanguageRows = CausalBatch | Seq2SeqBatch
"""Rows of a causal or an encoder-decoder language model."""


def padded_rows(
    documents: Sequence[TokenizedExample], kind: CausalRows | Seq2SeqRows, here: Replicas, *, room: int
) -> LanguageRows:
    """Return one replica's batch with one tokenized example per row, padded to the longest.

    ``step_targets`` of the batch counts the targets of all replicas, by which the loss is divided.

    Args:
        documents: The tokenized examples of all replicas, whose sources are truncated already.
        kind: Rows of a decoder-only or of an encoder-decoder model, with their largest lengths.
        here: This process's replica, and the number of replicas.
        room: Maximum number of columns of a row; for an encoder-decoder model, of an encoder row.
    """
    lengths, n_sources = _measures(documents)
    step_targets = int(kind.target_counts(lengths, n_sources, holes_of(documents)).sum())
    mine = here.share(documents)
    lengths, n_sources = _measures(mine)
    narrow: CausalRows | Seq2SeqRows
    if isinstance(kind, Seq2SeqRows):
        targets = min(int((lengths - n_sources).max()), kind.target_length)
        narrow = replace(kind, source_length=min(int(n_sources.max()), room), target_length=targets)
    else:
        narrow = replace(kind, length=min(int(lengths.max()), room))
    return narrow.collate([[document] for document in mine], step_targets)


def cut_source(document: TokenizedExample, room: int, *, keep_end: bool, pair: bool) -> TokenizedExample:
    """Truncate the source of a tokenized example; the target is kept, and so is the eos of an encoder's source.

    Args:
        document: The tokenized example.
        room: Maximum number of tokens of source and target together; for an encoder-decoder model, of the source.
        keep_end: Whether the source keeps its end (true) or its beginning (false).
        pair: Whether the model is an encoder-decoder.

    >>> document = TokenizedExample(np.array([1, 2, 3, 4, 9]), 4)
    >>> [cut_source(document, 3, keep_end=end, pair=False).input_ids.tolist() for end in (True, False)]
    [[3, 4, 9], [1, 2, 9]]
    """
    ids, n_source = document.input_ids, document.n_source
    kept = max(room if pair else room - (len(ids) - n_source), 0)
    if kept >= n_source:
        return document
    source = ids[:n_source]
    if keep_end:
        source = source[n_source - kept :]
    else:
        source = np.concatenate([source[: kept - 1], source[-1:]]) if pair and kept else source[:kept]
    holes = tuple((begin - n_source + kept, end - n_source + kept) for begin, end in document.holes)
    return TokenizedExample(np.concatenate([source, ids[n_source:]]), kept, holes=holes)


def _measures(documents: Sequence[TokenizedExample]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([len(d.input_ids) for d in documents]), np.array([d.n_source for d in documents])
