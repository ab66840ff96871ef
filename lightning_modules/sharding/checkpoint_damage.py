"""Checksums of checkpoints: a flipped bit or a block of zeros in a weight is noticed before the weight is used.

``torch.save`` writes a zip archive with the CRC-32 of every tensor. ``torch.load`` does not compare it, and a damaged
weight is usually finite. A folder of shards holds an archive for each part of a tensor.
"""

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

from ...datamodules.folder_files import files_below
from .plain_checkpoints import DEEPSPEED_TAG, read_index

READ_BYTES = 2**23
"""Bytes that are read at a time."""


def require_undamaged(path: Path) -> None:
    """Reject a checkpoint that differs from its checksums.

    Raises:
        ValueError: It is damaged; the message names the file.
    """
    if problem := damage(path):
        raise ValueError(problem)


def damage(path: Path, rank: int = 0, processes: int = 1) -> str | None:
    """Return a sentence about the first file of a checkpoint that is damaged; None if none is.

    Args:
        path: A complete checkpoint of any layout.
        rank: Rank of this process, which reads every so many files of a folder.
        processes: Number of processes that share the files of a folder.
    """
    if path.is_file():
        return _damage(path)
    if (path / DEEPSPEED_TAG).is_dir():
        share = files_below(path / DEEPSPEED_TAG)[rank::processes]
    else:
        share = [path / "meta.pt", *_shards(path)[rank::processes]]
    return next(filter(None, map(_damage, share)), None)


def _damage(path: Path) -> str | None:
    status = path.stat()
    problem = _problem(path, status.st_mtime_ns, status.st_size)
    return problem and f"{path} is damaged ({problem}): take a copy of it, or the checkpoint before it"


@lru_cache(maxsize=1024)
def _problem(path: Path, time: int, size: int) -> str | None:
    """Return what is wrong with a file; a file is read once by a process unless its time or size changes."""
    with open(path, "rb") as file:
        for archive in _archives(path, file):
            try:
                _read_all(archive)
            except OSError:
                raise
            except Exception as error:  # damaged headers raise errors of any kind
                return str(error) or type(error).__name__
    return None


def _shards(folder: Path) -> list[Path]:
    return sorted({folder / info.relative_path for info in read_index(folder).storage_data.values()})


def _archives(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the archives in a file: one of ``torch.save``, or the parts of tensors in a shard."""
    if not (path.parent / ".metadata").is_file() or path.name == "meta.pt":
        yield file
        return
    places = defaultdict(list)
    for info in read_index(path.parent).storage_data.values():
        places[info.relative_path].append((info.offset, info.length))
    for offset, length in sorted(places[path.name]):
        file.seek(offset)
        yield io.BytesIO(file.read(length))


def _read_all(file: IO[bytes]) -> None:
    """Read all of an archive; Python compares the checksums.

    Raises:
        zipfile.BadZipFile: A checksum differs, or it is no archive; damaged headers raise errors of any kind.
    """
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.CRC == 0:  # torch.serialization.set_crc32_options(False) writes none
                continue
            with archive.open(entry) as content:
                while content.read(READ_BYTES):
                    pass
