"""Where a task's rows lie, and how they become the rows that its templates were written for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..messages import NotAtHand, expanded, kind
from .dataset_forms import FORMS
from .row_files import Row, rows, source_digest


@dataclass(frozen=True)
class RowSource:
    """Where a task's rows lie, and how they differ from those its templates were written for.

    Args:
        source: A .jsonl, .json, .tsv, .csv, .parquet or .arrow file, a folder of ``Dataset.save_to_disk``, or a name on
            the hub; where a reader knows the dataset's name itself, by default that.
        config: Configuration of a dataset of the hub.
        split: Split of a dataset of the hub or of a folder.
        form: How a file of the dataset's authors is read that holds something else than a row a line: ``multirc``,
            ``record`` (SuperGLUE's) or ``wino_bias``.
        templates: Name of the templates, if it is not the task's, e.g. ``anli`` for a task ``anli_r1``.
        parent: Task whose score this one is a part of.
        columns: Columns that the templates read, each with its place in the row: ``{"hypothesis": "statement",
            "span1_text": "target.span1_text", "answer": "answers.text.0"}``.
        codes: Columns whose values are coded otherwise: ``{"label": {"entailment": 0, "not_entailment": 1}}``.
        constants: Columns that are the same in every row: ``{"lang1": "English"}``.
    """

    source: str | None = None
    config: str | None = None
    split: str = "train"
    form: str | None = None
    templates: str | None = None
    parent: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)


def source_rows(source: RowSource, name: str, config: str | None = None) -> Iterator[Row]:
    """The rows with their columns as templates read them; `name` and `config` of a dataset where `source` has none."""
    where, config = source.source or name, source.config or config
    found = rows(where, config=config, split=source.split) if source.form is None else _formed(where, source.form)
    for row in found:
        yield adapted(row, source)


def row_source_digest(source: RowSource, name: str, config: str | None = None) -> str:
    """A digest of the rows as they lie; how they are adapted is the reader's to add."""
    return source_digest(source.source or name, config=source.config or config, split=source.split)


def adapted(row: Row, source: RowSource) -> Row:
    """The row with the columns that its templates read."""
    fields = {**row.fields, **source.constants}
    for column, place in source.columns.items():
        fields[column] = _found(row, column, place)
    for column, known in source.codes.items():
        value = Row(fields, row.place).value(column)
        if str(value) not in known:
            raise row.error(f"{column!r} is {kind(value)}, and `codes` has {', '.join(known)}")
        fields[column] = known[str(value)]
    return Row(fields, row.place)


def _formed(where: str, form: str) -> Iterator[Row]:
    if form not in FORMS:
        raise ValueError(f"no form {form!r} of rows; there are {', '.join(FORMS)}")
    path = Path(expanded(where))
    if not path.is_file():
        raise NotAtHand(f"no file {path}, whose rows should be of the form {form!r}")
    return FORMS[form](path)


def _found(row: Row, column: str, place: str) -> Any:
    value: Any = row.fields
    for step in place.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise row.error(f"nothing at {place!r}, where `columns` looks for {column!r}")
    return value
