"""Converters of original files without one row per line to the rows of the same dataset on the hub.

Published templates read the hub's columns. ``RowSource.form`` names one of these converters.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...data_files import text_lines
from ...messages import kind
from .row import Row
from .row_files import jsonl_rows

MENTION = re.compile(r"\[([^\[\]]*)\]")


def multirc(path: Path) -> Iterator[Row]:
    """Yield the rows of the hub's MultiRC, one per answer, from SuperGLUE's original file with a passage per line."""
    for row in jsonl_rows(path):
        passage = _inner(row, "passage")
        for q, question in enumerate(_records(passage, "questions")):
            for a, answer in enumerate(_records(question, "answers")):
                fields = {
                    "paragraph": passage.text("text"),
                    "question": question.text("question"),
                    "answer": answer.text("text"),
                    "label": answer.integer("label"),
                }
                yield Row(fields, f"{row.location}, question {q}, answer {a}")


def record(path: Path) -> Iterator[Row]:
    """Yield the rows of the hub's ReCoRD, one per query, from SuperGLUE's original file with a passage per line.

    Entities and answers are sorted.
    """
    for row in jsonl_rows(path):
        passage = _inner(row, "passage")
        text = passage.text("text")
        spans = [(entity.integer("start"), entity.integer("end")) for entity in _records(passage, "entities")]
        entities = sorted({text[start : end + 1] for start, end in spans})
        for q, query in enumerate(_records(row, "qas")):
            answers = sorted({answer.text("text") for answer in _records(query, "answers")})
            fields = {"passage": text, "query": query.text("query"), "entities": entities, "answers": answers}
            yield Row(fields, f"{row.location}, query {q}")


def wino_bias(path: Path) -> Iterator[Row]:
    """Yield the rows of the hub's WinoBias from an original file of numbered sentences with mentions in brackets.

    "1 [The cook] met a guest because [she] was late." becomes the column ``tokens``, with the words and the full stop,
    and the column ``coreference_clusters``, with the first and last token of each mention: ``["0", "1", "6", "6"]``.

    Raises:
        ValueError: A sentence does not have two mentions in brackets.
    """
    for number, line in text_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        sentence = re.sub(r"^\s*\d+\s+", "", line)
        tokens = _tokens(MENTION.sub(r"\1", sentence))
        spans: list[str] = []
        for mention in MENTION.finditer(sentence):
            before = len(_tokens(MENTION.sub(r"\1", sentence[: mention.start()])))
            spans += [str(before), str(before + len(_tokens(mention[1])) - 1)]
        if len(spans) < 4:
            raise ValueError(f"{place}: expected a person and a pronoun in brackets, got {kind(sentence)}")
        yield Row({"tokens": tokens, "coreference_clusters": spans}, place)


FORMS: Mapping[str, Callable[[Path], Iterator[Row]]] = {"multirc": multirc, "record": record, "wino_bias": wino_bias}
"""Converter of a file to rows, by the values of ``RowSource.form``."""


def _tokens(text: str) -> list[str]:
    """Return the words as WinoBias separates them; punctuation that ends a word is a token."""
    return re.findall(r"[^\s.,;:!?]+|[.,;:!?]", text)


def _inner(row: Row, key: str) -> Row:
    value = row.value(key)
    if not isinstance(value, Mapping):
        raise row.error(f"{key!r} should be an object, got {kind(value)}")
    return Row(value, row.location)


def _records(row: Row, key: str) -> Iterator[Row]:
    values: Any = row.value(key)
    if not isinstance(values, list):
        raise row.error(f"{key!r} should be a list of objects, got {kind(values)}")
    for index, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise row.error(f"{key!r}[{index}] should be an object, got {kind(value)}")
        yield Row(value, f"{row.location}, {key}[{index}]")
