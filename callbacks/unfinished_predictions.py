"""Predictions of a run that died, found by the next one: hidden files, one for each process that wrote.

::

    predictions/.test-0.part     {"header": {"weights": "3f…", "prompts": "a0…", ...}}    who answered what
                                 {"number": 17, "task": ...}                              a prediction a line
"""

import fcntl
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

Header = Mapping[str, str]


class Unfinished(NamedTuple):
    """What a run left behind that this run can go on from.

    Args:
        lines: Its predictions by the example's number.
        paths: Their files.
        others: Names of what differs in each file of this run's own folder that belongs to another run.
    """

    lines: dict[int, str]
    paths: list[Path]
    others: dict[Path, list[str]]


def part_path(folder: Path, stage: str, process: int) -> Path:
    """Where a process writes while a stage runs."""
    return folder / f".{stage}-{process}.part"


def open_part(path: Path, header: Header | None, lines: Iterable[str] = ()) -> IO[str]:
    """Begin a part with lines that are known already, or take its place at once where there is one.

    It stays locked until it is closed or the process ends, however it ends.
    """
    begun = path.with_suffix(".begun")
    with open(begun, "w", encoding="utf-8") as file:
        file.write(json.dumps({"header": header}) + "\n")
        file.writelines(f"{line}\n" for line in lines)
    begun.replace(path)  # a run that is killed here loses nothing
    part = open(path, "a", encoding="utf-8")  # noqa: SIM115 - the writer closes it
    fcntl.flock(part, fcntl.LOCK_SH)
    return part


def read_part(path: Path) -> tuple[Header | None, dict[int, str]]:
    """A part's header and its predictions by number; a last line that was cut off is left out."""
    # A line ends at "\n" alone: splitlines would also cut texts at U+2028, which JSON leaves as it is.
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = [(line, json.loads(line)) for line in whole]
    header = records[0][1].get("header") if records else None
    return header, {record["number"]: line for line, record in records if "number" in record}


def find_unfinished(folder: Path, stage: str, header: Header, *, beside: bool) -> Unfinished:
    """What earlier runs left unfinished.

    Args:
        folder: Where this run writes.
        stage: What it runs.
        header: What decides its answers; only a run of the same header counts.
        beside: Whether to look in the other versions of the run, too.

    Raises:
        ValueError: A run is writing to the same folder.
    """
    own = sorted(folder.glob(f".{stage}-*.part"))
    others = sorted(folder.parents[1].glob(f"version_*/{folder.name}/.{stage}-*.part")) if beside else []
    found = Unfinished({}, [], {})
    for path in dict.fromkeys([*own, *others]):
        if _in_use(path):
            if path in own:
                raise ValueError(f"another run is writing {path}: wait for it, or write to another folder")
            continue
        written, lines = read_part(path)
        if written == header:
            found.lines.update(lines)
            found.paths.append(path)
        elif path in own:
            found.others[path] = [name for name in header if (written or {}).get(name) != header[name]]
    return found


def _in_use(path: Path) -> bool:
    """Whether a run is still writing it."""
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def records(lines: Mapping[int, str]) -> list[dict[str, Any]]:
    """The predictions, in the order of their numbers."""
    return [json.loads(lines[number]) for number in sorted(lines)]
