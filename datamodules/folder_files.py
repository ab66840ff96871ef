"""The files of a folder, without losing any silently.

``Path.rglob`` leaves out folders that are links or may not be read, and ``is_file`` a link to nothing, as a disk that
is not mounted leaves it: a run would train on the rest.
"""

from collections.abc import Iterator
from pathlib import Path


def files_in(folder: Path) -> list[Path]:
    """The files of a folder in the order of their names; hidden ones too.

    Raises:
        ValueError: An entry that is not hidden is neither file nor folder.
        OSError: The folder cannot be read.
    """
    return [path for path in _entries(folder) if path.is_file()]


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and of all folders in it, links to folders included, sorted by path.

    Raises:
        ValueError: An entry that is not hidden is neither file nor folder.
        OSError: A folder cannot be read.
    """
    return sorted(_walk(folder, frozenset()))


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Files below a folder; a link to one of the folders `above` it is not followed again."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from _walk(path, above | {here})
        elif path.is_file():
            yield path


def _entries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not (path.name.startswith(".") or path.is_file() or path.is_dir()):
            what = (
                f"a link to {path.readlink()}, where nothing is" if path.is_symlink() else "no file (a pipe or device)"
            )
            raise ValueError(f"{path}: {what}; mend or remove it, so that nothing is left out silently")
        yield path
