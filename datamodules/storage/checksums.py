"""Checksums of the files in a folder of the store, kept in its ``meta.json``::

    {"dtype": "uint16", ..., "files": {"tokens.bin": [2048, "9f3c..."]}, "seal": "a01b..."}

Each file is listed with its size in bytes and its SHA-256. The seal is the SHA-256 of everything else in ``meta.json``;
a folder with a seal is called sealed. ``read_sealed`` compares the seal and all sizes. ``verify_files`` reads the files
and compares their contents.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic_files import naming, sync_folder, whole_file
from ..data_files import read_json

META = "meta.json"

SEAL_LENGTH = 65
"""Bytes of the last line that ``write_sealed_lines`` writes: 64 hexadecimal digits and a line end."""

WAY_OUT = "`crosstask prepare` writes it again"
"""End of the messages about damaged files."""


def seal_folder(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write ``meta.json`` with the checksums of a folder's files, and flush all files to the disk.

    Args:
        folder: A folder without subfolders whose files are complete.
        meta: Further entries of ``meta.json``.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        with naming(path), open(path, "rb") as file:
            os.fsync(file.fileno())
            files[path.name] = [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    content = {**meta, "files": files}
    path = folder / META
    with naming(path), open(path, "w", encoding="utf-8") as out:
        out.write(json.dumps({**content, "seal": _seal(content)}, indent=1))
        out.flush()
        os.fsync(out.fileno())
    sync_folder(folder)


def write_sealed_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text, then a last line with their SHA-256. An existing file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with whole_file(path) as file:
        for line in lines:
            digest.update(f"{line}\n".encode())
            file.write(f"{line}\n")
        file.write(f"{digest.hexdigest()}\n")


def read_sealed_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file that ends in a checksum (``write_sealed_lines``), if the checksum is right.

    No line is yielded if the file does not exist or is damaged. A damaged file is reported in a warning. The file is
    read twice, since it may be larger than memory.
    """
    if not path.exists():
        return
    size = path.stat().st_size - SEAL_LENGTH
    with open(path, "rb") as file:
        digest, left = hashlib.sha256(), size
        while left > 0 and (part := file.read(min(left, 2**20))):
            digest.update(part)
            left -= len(part)
        if size < 0 or f"{digest.hexdigest()}\n".encode() != file.read():
            warnings.warn(f"{path} is damaged; reading the data files again", stacklevel=2)
            return
    with open(path, encoding="utf-8", newline="\n") as lines:
        while size > 0:
            line = next(lines)
            size -= len(line.encode())
            yield line.rstrip("\n")


def rename_sealed(partial: Path, folder: Path) -> None:
    """Give a complete folder its final name. After a power failure, `folder` is complete or does not exist.

    Args:
        partial: The folder, with the checksums of ``seal_folder``.
        folder: Its final path.

    Raises:
        OSError: `folder` exists already.
    """
    partial.chmod(0o755)
    os.rename(partial, folder)
    sync_folder(folder.parent)


def read_sealed(folder: Path) -> dict[str, Any]:
    """Read ``meta.json`` of a folder of the store, and check its own checksum and the sizes of all files.

    Raises:
        ValueError: The folder does not exist, or is damaged; the message names the file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: call prepare_data() before setup()")
    path = folder / META
    try:
        meta = read_json(path)
        seal = meta.pop("seal")
        intact = seal == _seal(meta)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {WAY_OUT}") from error
    if not intact:
        raise ValueError(f"{path} is damaged, its checksum differs from the recorded one: {WAY_OUT}")
    for name, (size, _) in meta["files"].items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else None
        if there != size:
            state = "is missing" if there is None else f"is damaged, it has {there} bytes instead of {size}"
            raise ValueError(f"{folder / name} {state}: {WAY_OUT}")
    return dict(meta)


def verify_files(folder: Path, meta: Mapping[str, Any], names: Collection[str] | None = None) -> None:
    """Read files and compare them with their checksums.

    Args:
        folder: A folder with checksums (``seal_folder``).
        meta: Content of its ``meta.json``, as returned by ``read_sealed``.
        names: Names of the files to read; None for all.

    Raises:
        ValueError: A file is damaged.
    """
    for name, (_, digest) in meta["files"].items():
        if names is None or name in names:
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise ValueError(
                        f"{folder / name} is damaged, its checksum differs from the recorded one: {WAY_OUT}"
                    )


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
