"""Writers of the toy benchmarks' files: text, JSON, JSONL, TSV and CSV; folders are created."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a text to a file in `folder`; `name` may contain folders."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_json(folder: Path, name: str, record: object) -> None:
    """Write a value to a JSON file in `folder`."""
    write_text(folder, name, json.dumps(record, indent=1) + "\n")


def write_lines(folder: Path, name: str, records: Iterable[object]) -> None:
    """Write records to a JSONL file in `folder`."""
    write_text(folder, name, "".join(json.dumps(record) + "\n" for record in records))


def write_tsv(folder: Path, name: str, rows: Iterable[Sequence[object]]) -> None:
    """Write rows to a TSV file in `folder`, without quoting."""
    write_text(folder, name, "".join("\t".join(map(str, row)) + "\n" for row in rows))


def write_csv(folder: Path, name: str, rows: Iterable[Sequence[object]]) -> None:
    """Write rows to a CSV file in `folder`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder, name, text.getvalue())
