"""Atomic writing of files: each appears complete or not at all, also after a kill, a full disk or a power failure."""

import contextlib
import errno
import glob
import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically; an older file of the name stays until the new one is on the disk.

    Raises:
        OSError: It cannot be written, e.g. because the disk is full; the error names the file.
    """
    with whole_file(path) as file:
        file.write(text)


@contextmanager
def whole_file(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Context manager that opens a file for writing and puts it in place when the block ends without an error.

    An older file of the name stays until then.

    Args:
        path: The file.
        mode: ``w`` for text in UTF-8, ``wb`` for bytes.

    Raises:
        OSError: It cannot be written; the error names the file.
    """
    partial = partial_path(path)
    with naming(path):
        try:
            with open(partial, mode, encoding="utf-8" if mode == "w" else None) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Context manager for a folder that appears complete or not at all: it yields a hidden folder to be filled.

    The hidden folder is renamed to `path` when the block ends, and removed after an error.

    Args:
        path: Where the folder is to appear; nothing is there, or an empty folder.

    Raises:
        OSError: It cannot be written; the error names the file or the folder.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        try:
            partial.mkdir()
            yield partial
            if path.is_dir():  # it may be a mounted one, which cannot be replaced
                for child in partial.iterdir():
                    shutil.move(child, path / child.name)
            else:
                partial.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def partial_path(path: Path) -> Path:
    """Return a hidden path beside `path`, at which this process writes a file before it is renamed to `path`.

    Half-written files of the same path, which killed processes of this machine have left, are deleted.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        owner = left.name.removesuffix(".part").rpartition(".")[2]
        if owner == this_process() or has_ended(owner):  # a container gives every process the same number
            remove(left)
    return path.with_name(f".{path.name}.{this_process()}.part")


def this_process() -> str:
    """Return the name of this process in the names of half-written files: machine and process number."""
    return f"{_machine()}-{os.getpid()}"


def has_ended(process: str) -> bool:
    """Return whether a process, named by its ``this_process``, ran on this machine and has ended."""
    machine, _, number = process.rpartition("-")
    if machine != _machine() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        return False
    return False


def remove(path: Path) -> None:
    """Delete a file or a folder as far as the system allows it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context manager that adds a file's name to system errors in the block, since libraries omit it on a full disk.

    Raises:
        OSError: The system's error, with the name of the file.
    """
    try:
        yield
    except Exception as error:
        system = system_error(error)
        if system is None or system.filename is not None:
            raise
        raise OSError(system.errno or errno.EIO, system.strerror or str(system), str(path)) from error


def system_error(error: BaseException) -> OSError | None:
    """Return the OSError, such as a full disk, behind an error of a library; None if there is none.

    torch raises a RuntimeError while it handles the system's error; safetensors, tokenizers and torch's distributed
    checkpoints only quote it. For a ValueError with a cause, None is returned: it already explains its cause.

    >>> system_error(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    OSError(28, 'No space left on device')
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        if isinstance(seen, ValueError) and seen.__cause__ is not None:
            return None
        if quoted := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(seen)):
            number = int(quoted[1] or quoted[2])
            return OSError(number, os.strerror(number))
        seen = seen.__cause__ or seen.__context__
    return None


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_new(path: Path) -> None:
    """Reject an output path that already exists; an empty folder is accepted.

    Raises:
        ValueError: `path` is a file, or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path} exists and is not overwritten: name another output, or remove it first")
