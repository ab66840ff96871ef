"""Tokenized examples on disk: one folder per task, memory-mapped, addressed by content, written atomically.

A folder holds ``tokens.bin`` (uint16 or uint32, all documents end to end), ``lengths.npy`` and ``n_sources.npy``
(int32 [n]), ``holes.npy`` (int32 [h, 3]) if some are conversations of several targets, ``labels.npy`` (float32 [n]) and
``groups.npy`` (int32 [n]) if the documents are scored pairs, and ``meta.json`` with checksums and counts of skipped
examples, remarks and unknown tokens. The folder's name is a digest of everything that decides its content: a changed
file, prompt form, seed or tokenizer gives another folder, and equal content is never tokenized twice.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rendering.unknown_tokens import NOTHING_LOST, UnknownTokens
from ..schema import TokenizedExample
from ..whole_files import naming
from .checksums import WAY_OUT, read_sealed, rename_sealed, seal_folder, verify_files

STORE_VERSION = 7
"""Version of the store: raise it when the files' layout changes, or when other instances of a task are stored."""


class Remark(str):
    """A remark on a stored example, counted as reasons of skipped examples are."""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """The documents of one task: lengths in memory, tokens on disk.

    Args:
        folder: Folder of the documents.
        lengths: int32 [n], tokens of each document.
        n_sources: int32 [n], how many of them are source.
        starts: int64 [n], where each document begins in ``tokens.bin``.
        skipped: Examples that were not stored, by reason; each value counts them.
        labels: float32 [n], correctness of scored pairs; None for other documents.
        groups: int32 [n], the same number for the scored pairs of an example, which are adjacent; None for others.
        unknown: Unknown tokens of the task.
        holes: int32 [h, 3], (document, begin, end) of the tokens between the targets of conversations, in the order of
            the documents; None if each document has one target.
    """

    folder: Path
    lengths: NDArray[np.int32]
    n_sources: NDArray[np.int32]
    starts: NDArray[np.int64]
    skipped: Mapping[str, int]
    labels: NDArray[np.float32] | None = None
    groups: NDArray[np.int32] | None = None
    unknown: UnknownTokens = NOTHING_LOST
    holes: NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> TokenizedExample:
        start = self.starts[index]
        tokens = _tokens(self.folder)[start : start + self.lengths[index]]
        label = None if self.labels is None else float(self.labels[index])
        holes = () if self.holes is None else rows_of(self.holes, index, index + 1)[:, 1:].tolist()
        return TokenizedExample(tokens, int(self.n_sources[index]), label, holes=tuple(map(tuple, holes)))


def rows_of(holes: NDArray[np.integer], first: int, last: int) -> NDArray[np.integer]:
    """The holes of documents `first` to `last` - 1; by bisection, since ``np.searchsorted`` would copy the column."""
    begin, end = (bisect_left(holes, document, key=lambda hole: hole[0]) for document in (first, last))
    return holes[begin:end]


# Linux allows a process 65,530 maps; a mixture has up to a few thousand tasks, and all stay mapped.
@lru_cache(maxsize=16_384)
def _tokens(folder: Path) -> NDArray[np.unsignedinteger]:
    try:
        meta = read_sealed(folder)
    except ValueError as error:
        raise ValueError(
            f"{folder} cannot be read any more, was the store deleted during this run? Start the run again, with "
            f"--ckpt_path last: it prepares what is missing ({error})"
        ) from error
    if meta["tokens"] == 0:
        return np.empty(0, dtype=meta["dtype"])
    return _mapped(folder / "tokens.bin").view(meta["dtype"])


def _mapped(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file in a memory map without a file descriptor, of which ``np.memmap`` holds one each.

    A mixture has more tasks than a process may have open files. The map is private: a write would not reach the file.
    """
    import torch

    tensor = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    values: NDArray[np.uint8] = tensor.numpy()
    values.flags.writeable = False
    return values


def content_key(**parts: Any) -> str:
    """A digest of JSON-like parts; equal parts give equal keys on every machine."""
    text = json.dumps({"store": STORE_VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def folder_name(task: str, key: str) -> str:
    """Name of a task's folder: one path component, also if the task's name contains its collection."""
    return f"{task.replace('/', '-')[:80]}-{key}"


def partial_folder(folder: Path) -> Path:
    """The folder that is filled before it is renamed to `folder`; its name contains the host and the process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    return Path(tempfile.mkdtemp(prefix=f".{folder.name[:80]}={owner}=", dir=folder.parent))


def remove_abandoned(root: Path) -> int:
    """Delete incomplete folders of processes of this machine that have ended; return their number."""
    removed = 0
    for folder in root.glob(".*=*-*=*"):
        host, _, process = folder.name.rsplit("=", 2)[1].rpartition("-")
        if host == socket.gethostname() and process.isdecimal() and not _runs(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_task(
    folder: Path, documents: Iterable[TokenizedExample | str], *, vocabulary: int, about: Mapping[str, Any]
) -> int:
    """Write a task's documents, and return their number; an item that is a string is a skipped example's reason.

    A ``Remark`` is counted apart.

    The folder appears complete or not at all: it is filled under another name and renamed.
    """
    dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    partial = partial_folder(folder)
    lengths: list[int] = []
    n_sources: list[int] = []
    labels: list[float] = []
    groups: list[int] = []
    holes: list[tuple[int, int, int]] = []
    skipped: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    unknown = NOTHING_LOST
    try:
        with naming(partial / "tokens.bin"), open(partial / "tokens.bin", "wb") as file:
            for document in documents:
                if isinstance(document, str):
                    (remarks if isinstance(document, Remark) else skipped)[document] += 1
                    continue
                file.write(document.input_ids.astype(dtype).tobytes())
                holes += [(len(lengths), *hole) for hole in document.holes]
                lengths.append(len(document.input_ids))
                n_sources.append(document.n_source)
                unknown = unknown.plus(*document.unknown)
                if document.label is not None:
                    labels.append(document.label)
                if document.group is not None:
                    groups.append(document.group)
        columns = {"lengths": np.array(lengths, dtype=np.int32), "n_sources": np.array(n_sources, dtype=np.int32)}
        columns |= {"labels": np.array(labels, dtype=np.float32)} if labels else {}
        columns |= {"groups": np.array(groups, dtype=np.int32)} if groups else {}
        columns |= {"holes": np.array(holes, dtype=np.int32)} if holes else {}
        for name, column in columns.items():
            with naming(partial / f"{name}.npy"):
                np.save(partial / f"{name}.npy", column)
        counts = {"tokens": sum(lengths), "skipped": dict(skipped), "remarks": dict(remarks), "unknown": unknown}
        seal_folder(partial, {"dtype": dtype.name, **counts, **about})
        rename_sealed(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY) and folder.exists():
            return len(lengths)  # another process wrote the same content first
        raise
    return len(lengths)


def damage(folder: Path, *, fully: bool = False) -> str | None:
    """Description of the damage to a stored folder; None if it is intact.

    Args:
        folder: A folder that is there.
        fully: Whether to read all files, instead of comparing sizes.
    """
    try:
        meta = read_sealed(folder)
        if fully:
            verify_files(folder, meta)
    except (ValueError, OSError) as error:
        return str(error).removesuffix(f": {WAY_OUT}")
    return None


def remove_damaged(folder: Path) -> None:
    """Delete a damaged folder. It is renamed first, so that it never lacks a part under its name."""
    aside = partial_folder(folder)
    os.rename(folder, aside / "damaged")
    shutil.rmtree(aside, ignore_errors=True)


def open_task(folder: Path) -> StoredTask:
    """Open a folder that ``write_task`` wrote.

    Raises:
        ValueError: The folder is not there, or a file of it is damaged; the tokens are not read for this.
    """
    meta = read_sealed(folder)
    verify_files(folder, meta, [name for name in meta["files"] if name != "tokens.bin"])
    columns = {name.removesuffix(".npy"): np.load(folder / name) for name in meta["files"] if name != "tokens.bin"}
    lengths = columns["lengths"]
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)[:-1]]) if len(lengths) else np.empty(0)
    return StoredTask(
        folder,
        lengths,
        columns["n_sources"],
        starts.astype(np.int64),
        meta["skipped"],
        columns.get("labels"),
        columns.get("groups"),
        UnknownTokens(*meta["unknown"]),
        columns.get("holes"),
    )
