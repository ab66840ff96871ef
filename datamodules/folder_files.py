"""Lists of the files in a folder; an entry that cannot be read is an error, so that no file is left out silently.

``Path.rglob`` leaves out folders that are links or may not be read. ``is_file`` is false for a link to nothing, e.g. on
a disk that is not mounted. A run would then train on the other files.
"""

from collections.abc import Iterator
from pathlib import Path


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder in the order of their names, including hidden ones.

    Raises:
        ValueError: An entry that is not hidden is neither file nor folder.
        OSError: The folder cannot be read.
    """
    return [path for path in _entries(folder) if path.is_file()]


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and of all its subfolders, sorted by path; links to folders are followed.

    Raises:
        ValueError: An entry that is not hidden is neither file nor folder.
        OSError: A folder cannot be read.
    """
    return sorted(_walk(folder, frozenset()))


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the files below a folder; a link to one of the folders `above` it is not followed again."""
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
