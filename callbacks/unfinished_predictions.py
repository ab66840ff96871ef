"""Files of predictions while an evaluation runs, from which an interrupted one resumes.

Each writing process has a hidden file::

    predictions/.test-0.part     {"header": {"weights": "3f…", "prompts": "a0…", ...}}    digests of the inputs
                                 {"number": 17, "task": ...}                              a prediction a line
"""

import fcntl
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..datamodules.data_files import parse_json

Header = Mapping[str, str]


class Unfinished(NamedTuple):
    """Predictions of interrupted evaluations that this run can reuse.

    Args:
        lines: JSON lines of predictions, by the example's number.
        paths: Files that hold these lines.
        others: Files in this run's folder that cannot be reused, with the names of the header fields that differ.
    """

    lines: dict[int, str]
    paths: list[Path]
    others: dict[Path, list[str]]


def part_path(folder: Path, stage: str, process: int) -> Path:
    """Return the path of the hidden file into which a process writes its predictions while an evaluation runs."""
    return folder / f".{stage}-{process}.part"


def open_part(path: Path, header: Header | None, lines: Iterable[str] = ()) -> IO[str]:
    """Begin a process's file of predictions with some lines, and return it for writing; replace an existing one.

    The file is replaced atomically, and locked until it is closed or the process ends.

    Args:
        path: The file, from ``part_path``.
        header: Digests of all that determines the predictions; None if they cannot be reused.
        lines: Predictions of an interrupted evaluation, which are reused.
    """
    begun = path.with_suffix(".begun")
    with open(begun, "w", encoding="utf-8") as file:
        file.write(json.dumps({"header": header}) + "\n")
        file.writelines(f"{line}\n" for line in lines)
    begun.replace(path)  # a run that is killed before this line loses nothing
    part = open(path, "a", encoding="utf-8")  # noqa: SIM115 - the writer closes it
    fcntl.flock(part, fcntl.LOCK_SH)
    return part


def read_part(path: Path) -> tuple[Header | None, dict[int, str]]:
    """Read a process's unfinished file of predictions: return its header, and its lines by number of the example.

    Lines that cannot be read are left out and evaluated again: the last line of a killed process, and lines that
    something else has changed.
    """
    # A line ends at "\n" alone: splitlines would also cut texts at U+2028, which JSON leaves as it is.
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = [(line, record) for line in whole if isinstance(record := _parsed(line), dict)]
    header = records[0][1].get("header") if records else None
    numbered = {record["number"]: line for line, record in records if type(record.get("number")) is int}
    return header if isinstance(header, dict) else None, numbered


def _parsed(line: str) -> Any:
    try:
        return parse_json(line, "a prediction")
    except ValueError:
        return None


def find_unfinished(folder: Path, stage: str, header: Header, *, beside: bool) -> Unfinished:
    """Find the predictions of interrupted evaluations that this run can reuse.

    Args:
        folder: This run's folder of predictions.
        stage: "validation", "test" or "predict".
        header: Everything that determines the predictions. Only parts with an equal header are reused.
        beside: Whether to search other versions of the run (``version_*``), too.

    Raises:
        ValueError: A run is writing to the same folder.
    """
    parts = sorted(folder.glob(f".{stage}-*.part"))
    parts_beside = sorted(folder.parents[1].glob(f"version_*/{folder.name}/.{stage}-*.part")) if beside else []
    unfinished = Unfinished({}, [], {})
    for path in dict.fromkeys([*parts, *parts_beside]):
        if _in_use(path):
            if path in parts:
                raise ValueError(f"another run is writing {path}: wait for it, or write to another folder")
            continue
        written, lines = read_part(path)
        if written == header:
            unfinished.lines.update(lines)
            unfinished.paths.append(path)
        elif path in parts:
            unfinished.others[path] = [name for name in header if (written or {}).get(name) != header[name]]
    return unfinished


def _in_use(path: Path) -> bool:
    """Return whether a running process has locked the file."""
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def records(lines: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the predictions as dictionaries, in the order of their numbers."""
    return [parse_json(lines[number], f"prediction {number}") for number in sorted(lines)]
