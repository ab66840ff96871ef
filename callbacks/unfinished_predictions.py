"""Predictions of an interrupted run, from which the next run resumes: hidden files, one for each writing process.

::

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
    """Predictions of interrupted runs that this run can reuse.

    Args:
        lines: Lines of predictions by the example's number.
        paths: Files of these lines.
        others: Files in this run's folder that cannot be reused, with the names of differing header fields.
    """

    lines: dict[int, str]
    paths: list[Path]
    others: dict[Path, list[str]]


def part_path(folder: Path, stage: str, process: int) -> Path:
    """The file of a process's predictions while a stage runs."""
    return folder / f".{stage}-{process}.part"


def open_part(path: Path, header: Header | None, lines: Iterable[str] = ()) -> IO[str]:
    """Start a part with given lines, atomically replacing an existing one.

    The part is locked until it is closed or the process ends.
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
    """A part's header and its predictions by number.

    Unreadable lines are left out, to be evaluated again: the last line of a process that was killed, and lines that
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
    """Predictions of earlier runs of a stage that were interrupted.

    Args:
        folder: This run's folder of predictions.
        stage: The stage.
        header: Everything that decides the predictions; only runs with an equal header are reused.
        beside: Also search other versions of the run (``version_*``).

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
    """Whether a run is writing the file."""
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def records(lines: Mapping[int, str]) -> list[dict[str, Any]]:
    """The predictions, in the order of their numbers."""
    return [parse_json(lines[number], f"prediction {number}") for number in sorted(lines)]
