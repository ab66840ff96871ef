"""SHA-256 digests of files and folders; a file is read again only after it has changed."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from .folder_files import files_below
from .messages import MissingFiles
from .tracked_files import note


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 of the files' contents, in the order given.

    Raises:
        MissingFiles: A file does not exist.
    """
    digests = []
    for path in paths:
        note(path)
        if not path.is_file():
            raise MissingFiles(f"no file {path}")
        status = path.stat()
        digests.append(_digest(path, status.st_mtime_ns, status.st_size))
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def tree_digest(path: Path, files: Iterable[Path] | None = None) -> str:
    """Return the SHA-256 of a file, or of the relative names and contents of a folder's files.

    Args:
        path: The file or folder. Moving a folder does not change its digest.
        files: Files of the folder to digest; None for all files in it and in its subfolders.
    """
    if path.is_file():
        return file_digest(path)
    chosen = files_below(path) if files is None else sorted(file for file in files if file.is_file())
    named = [f"{file.relative_to(path).as_posix()} {file_digest(file)}" for file in chosen]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


@lru_cache(maxsize=100_000)
def _digest(path: Path, modified: int, size: int) -> str:
    """Return the SHA-256 of one file; `modified` and `size` are part of the cache's key."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
