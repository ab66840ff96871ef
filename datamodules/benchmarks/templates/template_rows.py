"""Rows for published templates: the rows of a task's source, with the columns that its templates read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data_files import format_of, task_name_of
from ...folder_files import files_in
from ...messages import MissingFiles, existing_folder, expanded, kind
from ..rows.dataset_forms import FORMS
from ..rows.row import Row
from ..rows.row_files import SUFFIXES, read_rows
from ..rows.source_digests import source_digest


@dataclass(frozen=True)
class RowSource:
    """Declares where a task's rows come from, and how their columns map to those that the task's templates read.

    Args:
        source: A .jsonl, .json, .tsv, .csv, .parquet or .arrow file, a folder of ``Dataset.save_to_disk``, or a hub
            name. None for the dataset that the templates name.
        config: Configuration of a hub dataset.
        split: Split of a hub dataset or of a saved one.
        form: Format of an original file that does not hold one row per line: ``multirc`` or ``record`` (SuperGLUE), or
            ``wino_bias``. None for rows.
        templates: Name of the templates if it differs from the task's, e.g. ``anli`` for the task ``anli_r1``.
        parent: Task whose score is the mean of this task's and others', e.g. ``anli``; None for none.
        columns: Path in the row for each column that the templates read under another name: ``{"hypothesis":
            "statement", "span1_text": "target.span1_text", "answer": "answers.text.0"}``.
        codes: New values for old ones, by column: ``{"label": {"entailment": 0, "not_entailment": 1}}``.
        constants: Columns to add with the same value in every row: ``{"lang1": "English"}``.
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


def template_rows(source: RowSource, name: str, config: str | None = None) -> Iterator[Row]:
    """Yield the rows of a task from its file or hub dataset, with the columns that its templates read.

    Args:
        source: File or dataset, and how its columns are renamed.
        name: Hub dataset that is read if `source` names none.
        config: Its configuration, unless `source` names one; None for its default.
    """
    where, config = source.source or name, source.config or config
    rows = (
        read_rows(where, config=config, split=source.split) if source.form is None else _form_rows(where, source.form)
    )
    for row in rows:
        yield adapted_row(row, source)


def template_rows_digest(source: RowSource, name: str, config: str | None = None) -> str:
    """Return a digest of the file or hub dataset of a task's rows, by which changed data is noticed.

    The renaming of columns in `source` is not part of it: callers digest that, too.

    Args:
        source: File or dataset of the rows.
        name: Hub dataset that is read if `source` names none.
        config: Its configuration, unless `source` names one; None for its default.
    """
    return source_digest(source.source or name, config=source.config or config, split=source.split)


def files_of_rows(folder: str, split: str) -> dict[str, str]:
    """Return the files of a split by task: ``<folder>/<split>/<task>.jsonl``, as ``crosstask download`` writes them.

    The files may be of any format of rows, and compressed.

    Raises:
        MissingFiles: There is no such folder, or it holds no file.
        ValueError: It holds two files of one task.
    """
    root = existing_folder(
        Path(folder) / split, "a .jsonl file of rows for each task, as `crosstask download` writes it,"
    )
    files = {name: str(path) for name, path in named_files(root).items()}
    if not files:
        raise MissingFiles(f"{root} holds no .jsonl file of rows; `crosstask download` fills it")
    return files


def named_files(folder: Path) -> dict[str, Path]:
    """Return the files of rows in a folder by their names without suffixes.

    Raises:
        ValueError: Two files have the same name.
    """
    files: dict[str, Path] = {}
    for path in files_in(folder):
        if format_of(path) in SUFFIXES and not path.name.startswith("."):
            if (name := task_name_of(path)) in files:
                raise ValueError(f"{files[name]} and {path} are both the rows of {name!r}; remove one")
            files[name] = path
    return files


def adapted_row(row: Row, source: RowSource) -> Row:
    """Return a row with its columns renamed, coded and completed as a ``RowSource`` declares for the task's templates.

    >>> source = RowSource(columns={"text": "s"}, codes={"label": {"no": 1}})
    >>> adapted_row(Row({"s": "Hi", "label": "no"}, ""), source).fields
    {'s': 'Hi', 'label': 1, 'text': 'Hi'}

    Raises:
        ValueError: A value of a coded column has no code.
    """
    fields = {**row.fields, **source.constants}
    for column, path in source.columns.items():
        fields[column] = _value_at(row, column, path)
    for column, codes in source.codes.items():
        value = Row(fields, row.location).value(column)
        if str(value) not in codes:
            raise row.error(f"{column!r} is {kind(value)}, and `codes` has {', '.join(codes)}")
        fields[column] = codes[str(value)]
    return Row(fields, row.location)


def _form_rows(where: str, form: str) -> Iterator[Row]:
    if form not in FORMS:
        raise ValueError(f"no form {form!r} of rows; there are {', '.join(FORMS)}")
    path = expanded(where)
    if not path.is_file():
        raise MissingFiles(f"no file {path}, whose rows should be of the form {form!r}")
    return FORMS[form](path)


def _value_at(row: Row, column: str, path: str) -> Any:
    value: Any = row.fields
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise row.error(f"nothing at {path!r}, where `columns` looks for {column!r}")
    return value
