"""The tasks and splits that a run reads from a benchmark when it starts, stored so that no data file is read again.

::

    store/starts/3f0c....json      tasks and splits, the folders of the training tasks, and stamps of the read files

A stamp is the size and time of a data file, by which a changed file is noticed; `crosstask prepare` compares contents.
The file's name is a digest of everything else that decides the tasks and splits. If the data files do not exist any
more, the stored tasks and splits are used.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from ..benchmarks import Split
from ..schema import Demonstration, Task
from ..tracked_files import Stamp, all_gone, is_current
from .checksums import read_sealed_lines, write_sealed_lines

FOLDER = "starts"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Tasks and splits that a run has read from its benchmark, stored so that the next run reads no data files.

    Args:
        names: Names of the tasks of each split (``train``, ``validation``, ``test``).
        shared: Tasks of the training list that do not train, each with the reason.
        lines: Lines that a run prints about its tasks.
        tasks: The tasks of all splits, by name.
        folders: Name of each training task's folder in the store, by task.
        read: Stamps (size and time) of the files and folders that were read, by path.
    """

    names: Mapping[Split, Sequence[str]]
    shared: Mapping[str, str]
    lines: Sequence[str]
    tasks: Mapping[str, Task]
    folders: Mapping[str, str]
    read: Mapping[str, Stamp]


def write_start(path: Path, start: Start) -> None:
    """Write tasks and splits to a file. An existing file is replaced."""
    write_sealed_lines(path, [json.dumps(asdict(start))])


def current_start(path: Path) -> Start | None:
    """Read the tasks and splits that an earlier run stored.

    None is returned if the file does not exist, or if a data file has changed since. If all data files are gone, the
    stored tasks are used, and a line is printed.
    """
    contents = [json.loads(line) for line in read_sealed_lines(path)]
    if not contents or not is_current(contents[0]["read"]):
        return None
    (content,) = contents
    start = Start(**{**content, "tasks": {name: _task(of) for name, of in content["tasks"].items()}})
    if all_gone(start.read):
        rank_zero_info(
            f"the data files do not exist any more: training uses the documents that were prepared from them ({path})"
        )
    return start


def _task(content: Mapping[str, Any]) -> Task:
    shown = {name: tuple(Demonstration(**one) for one in content[name]) for name in _DEMONSTRATIONS}
    return Task(**{**content, "sources": tuple(content["sources"]), **shown})


_DEMONSTRATIONS = ("positive_examples", "negative_examples")


@cache
def readers_digest() -> str:
    """Return a SHA-256 of the code of ``datamodules``, since other code may read or split the files differently."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*")):
        if path.suffix in (".py", ".yaml", ".json", ".txt") and path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()
