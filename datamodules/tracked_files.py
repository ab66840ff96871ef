"""A record of the files and folders that were read to compute a result, so that later changes are noticed.

Benchmark readers call ``note`` for what they open: ``data_files`` and ``file_digests`` do so, and readers that open
files by themselves. Outside of a ``with noting()`` block, notes are dropped.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_noted: ContextVar[tuple[set[str], ...]] = ContextVar("noted", default=())

PACKAGE = Path(__file__).absolute().parents[1]

Stamp = list[int] | None
"""[size, modification time in ns] of a file, [number computed from the names in it] of a folder; None if there is none.

A folder's time would not do: it changes with every temporary file that an editor or a shell makes beside the data.
"""


@contextmanager
def noting() -> Iterator[set[str]]:
    """Context manager that collects the paths and hub datasets that readers report by ``note`` within the block."""
    names: set[str] = set()
    token = _noted.set((*_noted.get(), names))
    try:
        yield names
    finally:
        _noted.reset(token)


def note(name: Path | str) -> None:
    """Note a file or folder that is read or missing; a hub dataset is noted as ``hub:name``."""
    for names in _noted.get():
        names.add(str(name))


def path_stamps(names: Iterable[str], *, store: Path) -> dict[str, Stamp]:
    """Return the sizes and modification times of files that were read, by path, to notice later changes.

    The two folders above each file are included, since their times change when files are added.

    Args:
        names: Paths that were read. Files of this package and of the store are left out, since they are not data files.
        store: Folder in which tokenized examples are stored.
    """
    paths = [Path(name).absolute() for name in names if not name.startswith("hub:")]
    paths = [path for path in paths if not any(path.is_relative_to(folder) for folder in (PACKAGE, store.absolute()))]
    above = {folder for path in paths if path.is_file() for folder in path.parents[:2]}
    return {str(path): _stamp(path) for path in sorted({*paths, *above})}


def all_gone(stamped: Mapping[str, Stamp]) -> bool:
    """Return whether none of the recorded files exists any more, e.g. on a machine that has only the prepared data.

    Args:
        stamped: Size and modification time of each path, when it was read.
    """
    files = [name for name, stamp in stamped.items() if stamp is not None and len(stamp) == 2]
    return bool(files) and not any(Path(name).exists() for name in files)


def is_current(stamped: Mapping[str, Stamp]) -> bool:
    """Return whether no recorded file or folder has changed since it was read, or all files are missing.

    Args:
        stamped: Size and modification time of each path, when it was read.
    """
    return all_gone(stamped) or all(_stamp(Path(name)) == stamp for name, stamp in stamped.items())


def _stamp(path: Path) -> Stamp:
    try:
        if path.is_dir():
            return [_number_of_names(path)]
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _number_of_names(folder: Path) -> int:
    """Return a number of 52 bits that changes with the names in a folder; hidden ones are ignored."""
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    return int(hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()[:13], 16)
