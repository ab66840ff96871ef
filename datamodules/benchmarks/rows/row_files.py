"""Readers of rows: from JSON, JSONL, TSV, CSV, Parquet and Arrow files and from hub datasets, one row at a time.

Every error is a ValueError that begins with the file and the row, e.g. ``rte.jsonl, line 7: ...``.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...data_files import FETCH_AGAIN, LONGEST_LINE, format_of, parse_json, read_json, read_text, text_lines
from ...messages import MissingFiles, existing_folder, expanded, kind, some
from ...tracked_files import note
from .row import Row

SUFFIXES = (".jsonl", ".json", ".tsv", ".csv", ".parquet", ".arrow")
"""Suffixes of the files that ``read_rows`` reads, in upper or lower case. Text files may be compressed (``.gz``)."""

AS_LIST = "if the file is one list of objects, end its name in .json"

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(@[\w.-]+)?")


def read_rows(
    source: str, *, config: str | None = None, split: str | None = None, label_names: bool = False
) -> Iterator[Row]:
    """Yield the rows of a file, of a folder of ``Dataset.save_to_disk``, or of a streamed hub dataset.

    Args:
        source: A .jsonl, .json, .tsv, .csv, .parquet or .arrow file; a folder written by ``Dataset.save_to_disk``, or a
            copy of a hub dataset; or a hub name, ``"owner/name"`` or ``"owner/name@revision"``.
        config: Configuration of a hub dataset, e.g. ``"rte"`` of ``super_glue``; None for its default.
        split: Split of a hub dataset or of a ``DatasetDict`` folder; None for ``train`` of a hub dataset.
        label_names: Whether values of ``ClassLabel`` columns become the names of the labels, and -1 (no label) null.
            Only Parquet, Arrow, saved and hub datasets have such columns.

    Raises:
        MissingFiles: There is no such file or folder.
        ValueError: The dataset cannot be opened, or a row cannot be read.
    """
    path = expanded(source)
    if path.is_file():
        yield from file_rows(path, label_names=label_names)
    elif path.is_dir():
        saved = any((path / name).exists() for name in ("state.json", "dataset_dict.json"))
        rows = _saved_rows(path, split) if saved else _hub_rows(str(path), config, split)
        yield from _located(str(path), rows, label_names)
    elif is_hub_name(source):
        name, _, revision = source.partition("@")
        yield from _located(name, _hub_rows(name, config, split, revision or None), label_names)
    else:
        folder = existing_folder(path.parent, path.name)
        raise MissingFiles(
            f"no {path.name} in {folder}, which holds {some(sorted(file.name for file in folder.iterdir()))}"
        )


def is_hub_name(source: str) -> bool:
    """Return whether a text has the form of a hub dataset's name: ``"owner/name"`` or ``"owner/name@revision"``.

    Test for existing paths first: the path of a folder may have this form, too.
    """
    return bool(_HUB_NAME.fullmatch(source)) and format_of(Path(source)) not in SUFFIXES


def file_rows(path: Path, *, label_names: bool = False) -> Iterator[Row]:
    """Yield the rows of one file, in the format of its suffix; TSV and CSV files need a header line.

    Args:
        path: The file.
        label_names: Whether values of ``ClassLabel`` columns become the names of the labels, and -1 (no label) null.
            Only Parquet and Arrow files have such columns.

    Raises:
        ValueError: The suffix is none of ``SUFFIXES``, or a row cannot be read.
    """
    match format_of(path):
        case ".jsonl":
            yield from jsonl_rows(path)
        case ".json":
            yield from json_rows(path)
        case ".tsv" | ".csv":
            yield from table_rows(path)
        case ".parquet" | ".arrow":
            yield from _located(str(path), _columnar_rows(path), label_names)
        case _:
            raise ValueError(f"{path}: expected a file of rows, with one of the endings {', '.join(SUFFIXES)}")


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the object on each line of a JSONL file; blank lines are passed over."""
    for number, line in text_lines(path):
        if line.strip():
            place, listed = f"{path}, line {number}", line.lstrip().startswith("[")
            yield _object(parse_json(line, place, AS_LIST if listed else FETCH_AGAIN), place, AS_LIST)


def json_rows(path: Path, key: str | None = None) -> Iterator[Row]:
    """Yield the objects in a list in a JSON file, at its top level or under `key`; the file is read whole.

    Args:
        path: The JSON file.
        key: Field that holds the list; None if the list is the whole document.

    Raises:
        ValueError: The file holds no such list.
    """
    text = read_text(path)
    remedy = "if every line is an object, name the file .jsonl" if text.lstrip().startswith("{") else FETCH_AGAIN
    document = parse_json(text, str(path), remedy)
    if key is not None:
        document = _object(document, str(path)).value(key)
    if not isinstance(document, list):
        under = f" under {key!r}" if key is not None else ""
        raise ValueError(f"{path}: expected a list of objects{under}, got {kind(document)}{_list_hint(document)}")
    for index, record in enumerate(document):
        yield _object(record, f"{path}, record {index}")


def _list_hint(document: object) -> str:
    """Return how to save a JSON object as rows: the one list in it, or columns as rows; empty if neither fits."""
    values = document if isinstance(document, dict) else {}
    keys = [key for key, value in values.items() if isinstance(value, list)]
    columns = {len(value) if isinstance(value, list | dict) else -1 for value in values.values()}
    if len(values) > 1 and len(columns) == 1 and -1 not in columns:
        return "; these are columns: save rows, as pandas does with to_json(..., orient='records')"
    return f"; save the list under {keys[0]!r} alone in a file" if len(keys) == 1 else ""


def table_rows(path: Path, columns: Sequence[str] | None = None, *, quoted: bool | None = None) -> Iterator[Row]:
    """Yield the rows of a TSV or CSV file; all values are texts.

    Args:
        path: The file. A ``.tsv`` file is separated by tabs, any other by commas.
        columns: Column names of a file without a header; None if the first line is the header.
        quoted: Whether values in double quotes may contain separators and line ends. None means true for CSV and false
            for TSV, since the TSV files of benchmarks contain plain quotation marks.

    Raises:
        ValueError: The header is one column that another separator would divide, or names a column twice; or a line has
            another number of values.
    """
    comma = format_of(path) != ".tsv"
    records = (
        _quoted_records(path, "," if comma else "\t") if quoted or (quoted is None and comma) else _tsv_records(path)
    )
    names = list(columns) if columns is not None else None
    for number, values in records:
        if names is None:
            names = values
            others = ";\t|" if comma else ",;|"
            if len(names) == 1 and (other := next((each for each in others if each in names[0]), None)):
                remedy = "commas, or with tabs as .tsv" if comma else "tabs, or with commas as .csv"
                raise ValueError(
                    f"{path}: the header is one column, {kind(names[0])}, which {other!r} would divide; save the table "
                    f"with {remedy}"
                )
            if len(set(names)) != len(names):
                raise ValueError(f"{path}: the header names a column twice: {some(names, len(names))}")
            continue
        place = f"{path}, line {number}"
        if len(values) != len(names):
            raise ValueError(
                f"{place}: expected {len(names)} values ({', '.join(names)}), got {len(values)}: {kind(values)}"
            )
        yield Row(dict(zip(names, values, strict=True)), place)


def _object(record: object, place: str, if_list: str = "") -> Row:
    if not isinstance(record, dict):
        remedy = f"; {if_list}" if if_list and isinstance(record, list) else ""
        raise ValueError(f"{place}: expected an object with named fields, got {kind(record)}{remedy}")
    return Row(record, place)


def _tsv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in text_lines(path):
        if line.strip():
            yield number, line.split("\t")


def _quoted_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(LONGEST_LINE)  # for the whole process; the default rejects values above 128 KiB
    lines = (line + "\n" for _, line in text_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 1
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path}, line {number}: {error}; is a quotation mark left open?") from error
        if values:
            yield number, values
        number = reader.line_num + 1


def split_names(source: str, config: str | None = None) -> list[str]:
    """Return the splits of a saved dataset, of a copy of a hub dataset, or of a hub dataset; [] if it has none.

    Args:
        source: A folder that ``Dataset.save_to_disk`` wrote, or a hub name.
        config: Configuration of a hub dataset; None for its default.

    Raises:
        ValueError: The dataset cannot be opened.
    """
    path = expanded(source)
    if (path / "state.json").exists():
        return []
    if (path / "dataset_dict.json").exists():
        return [str(name) for name in read_json(path / "dataset_dict.json")["splits"]]
    import datasets  # takes seconds to import

    name, _, revision = (str(path), "", "") if path.is_dir() else source.partition("@")
    try:
        return [str(split) for split in datasets.get_dataset_split_names(name, config, revision=revision or None)]
    except _DATASETS_ERRORS as error:
        raise ValueError(f"{name}, cannot be opened: {type(error).__name__}: {error}") from error


_DATASETS_ERRORS = (OSError, RuntimeError, ValueError, KeyError, UnicodeError)

Load = Callable[[], Iterable[Any]]
"""Function that opens a dataset of `datasets`; its result yields records."""


def _columnar_rows(path: Path) -> Load:
    import datasets  # takes seconds to import, and most readers never need it

    note(path)
    files = {"rows": str(path)}
    return lambda: datasets.load_dataset(format_of(path)[1:], data_files=files, split="rows", streaming=True)


def _saved_rows(folder: Path, split: str | None) -> Load:
    import datasets

    note(folder)
    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ValueError(f"{folder} holds the splits {', '.join(saved)}; set `split` to one of them, got {split!r}")
        saved = saved[split]
    return lambda: saved


def _hub_rows(name: str, config: str | None, split: str | None, revision: str | None = None) -> Load:
    """Return a function that opens a hub dataset, or a folder with a copy of one."""
    import datasets

    note(name if Path(name).is_dir() else f"hub:{name}")
    return lambda: datasets.load_dataset(name, config, split=split or "train", revision=revision, streaming=True)


def _located(name: str, load: Load, label_names: bool) -> Iterator[Row]:
    """Yield the rows of a dataset; errors of `datasets` become ValueErrors that name the row."""
    index = -1
    try:
        dataset = load()
        labels = _labels(dataset) if label_names else {}
        for index, record in enumerate(dataset):
            named = {column: names(record[column]) for column, names in labels.items()}
            yield Row({**record, **named} if named else record, f"{name}, row {index}")
    except _DATASETS_ERRORS as error:
        where = "cannot be opened" if index < 0 else f"after row {index}"
        remedy = f"; {FETCH_AGAIN}" if Path(name).is_file() else ""
        raise ValueError(f"{name}, {where}: {type(error).__name__}: {error}{remedy}") from error


def _labels(dataset: Any) -> dict[str, Callable[[int | None], str | None]]:
    """Return, for each ``ClassLabel`` column, a function from a label's number to its name."""
    import datasets

    def names(feature: Any) -> Callable[[int | None], str | None]:
        return lambda number: None if number is None or number < 0 else feature.names[number]

    features = dataset.features or {}
    return {column: names(one) for column, one in features.items() if isinstance(one, datasets.ClassLabel)}
