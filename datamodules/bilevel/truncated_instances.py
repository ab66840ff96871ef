"""Counts of the training instances and exemplars of instruction optimization that lose a part of their text."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..packing.collate import Seq2SeqRows
from ..rendering.special_tokens import truncating_tokenizer
from .bilevel_report import TaskInstances
from .exemplars import exemplar_texts
from .level_instances import Instance
from .level_rows import LevelRows

WHOLE = 2**20
"""More tokens than any exemplar has."""


def count_truncated(rows: LevelRows) -> dict[str, int]:
    """Return how many inner and outer instances, and exemplars, are too long for what is kept of them, by kind.

    Instances are rendered and tokenized as in the first epoch. Any inner instance may be an exemplar. Prompts with
    demonstrations that the instruction chooses are not among them: those leave out demonstrations first.

    Args:
        rows: Renders and tokenizes the instances of both levels.
    """
    counts = {"outer instances cut to a row": _cut_to_rows(rows, rows.outer, reserve=0)}
    if rows.few_shot is not None:
        return counts
    counts = {"inner instances cut to a row": _cut_to_rows(rows, rows.inner, reserve=rows.text.reserve), **counts}
    if rows.text.pools is not None:
        counts[f"inner instances cut to {rows.text.exemplar_length} tokens as exemplars"] = _cut_exemplars(rows)
    return counts


def _cut_to_rows(rows: LevelRows, tasks: Sequence[TaskInstances], *, reserve: int) -> int:
    kind, total = rows.text.rows, 0
    room = kind.capacity - reserve
    kind = replace(kind, source_length=room) if isinstance(kind, Seq2SeqRows) else replace(kind, length=room)
    for number, (_, examples) in enumerate(tasks):
        prompts = [rows.prompt(tasks, Instance(number, index)) for index in range(len(examples))]
        documents = rows.preparation.tokenize(prompts)
        lengths = np.array([len(document.input_ids) for document in documents])
        total += int(kind.cuts(lengths, np.array([document.n_source for document in documents])).truncated.sum())
    return total


def _cut_exemplars(rows: LevelRows) -> int:
    total, text = 0, rows.text
    for _, examples in rows.inner:
        pairs = [exemplar_texts(example, numbered=text.numbered) for example in examples]
        with truncating_tokenizer(rows.preparation.tokenizer, WHOLE) as backend:
            encodings = backend.encode_batch_fast(pairs, add_special_tokens=False)
        total += sum(len(encoding.ids) > text.exemplar_length for encoding in encodings)
    return total
