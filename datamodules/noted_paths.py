"""Files and folders that were read to compute something, noted so that later changes of them are noticed.

Readers note what they open: ``data_files``, ``file_digests``, and those that open files themselves. Nothing is noted
outside of ``noting``.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_noted: ContextVar[tuple[set[str], ...]] = ContextVar("noted", default=())

PACKAGE = Path(__file__).absolute().parents[1]

Stamp = list[int] | None
"""Size and time of the last change in nanoseconds; of a folder the time; None if there was nothing."""


@contextmanager
def noting() -> Iterator[set[str]]:
    """Collects the paths, and names of hub datasets, that are noted within."""
    names: set[str] = set()
    token = _noted.set((*_noted.get(), names))
    try:
        yield names
    finally:
        _noted.reset(token)


def note(name: Path | str) -> None:
    """Note a file or folder that is read, or missing; or the name of a hub dataset, which is no path."""
    for names in _noted.get():
        names.add(str(name))


def stamps(names: Iterable[str], *, store: Path) -> dict[str, Stamp]:
    """The stamps of noted paths, and of the two folders above each file, which change when files are added there.

    Args:
        names: The noted paths; files of this package and of the store are no data files.
        store: Folder of the store.
    """
    paths = [Path(name).absolute() for name in names if not name.startswith("hub:")]
    paths = [path for path in paths if not any(path.is_relative_to(folder) for folder in (PACKAGE, store.absolute()))]
    above = {folder for path in paths if path.is_file() for folder in path.parents[:2]}
    return {str(path): _stamp(path) for path in sorted({*paths, *above})}


def gone(stamped: Mapping[str, Stamp]) -> bool:
    """Whether all of the files are gone, e.g. on a machine that has only the prepared data."""
    files = [name for name, stamp in stamped.items() if stamp is not None and len(stamp) == 2]
    return bool(files) and not any(Path(name).exists() for name in files)


def is_current(stamped: Mapping[str, Stamp]) -> bool:
    """Whether all paths are as they were, or all files are gone."""
    return gone(stamped) or all(_stamp(Path(name)) == stamp for name, stamp in stamped.items())


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_mtime_ns] if path.is_dir() else [status.st_size, status.st_mtime_ns]
