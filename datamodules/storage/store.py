"""The documents of one task on disk: a folder of arrays, memory-mapped, written atomically. n documents::

    tokens.bin      uint16 or uint32, the tokens of all documents, concatenated
    lengths.npy     int32 [n], tokens of each document
    n_sources.npy   int32 [n], source tokens of each document
    holes.npy       int32 [h, 3], (document, begin, end) of the tokens between the targets of a conversation
    labels.npy      float32 [n], correctness in [0, 1]; of scored pairs only
    groups.npy      int32 [n], equal for pairs of one example; of scored pairs only
    meta.json       checksums, and counts of skipped examples, remarks and unknown tokens

The folder's name is a digest of everything that decides its content. A changed file, prompt form, seed or tokenizer
gives another folder, and equal content is never tokenized twice.
"""

import errno
import hashlib
import json
import os
import shutil
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

from ..atomic_files import has_ended, naming, remove, this_process
from ..rendering.unknown_tokens import NOTHING_LOST, UnknownTokens
from ..schema import TokenizedExample
from .checksums import WAY_OUT, read_sealed, rename_sealed, seal_folder, verify_files

STORE_VERSION = 8
"""Version of the store, which is part of folders' names: raise it when files or the choice of instances change."""


class Remark(str):
    """Text that ``write_task`` counts without leaving an example out, e.g. that an example's samples do not train."""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """The n tokenized training examples (documents) of one task: lengths in memory, tokens in a memory map.

    Args:
        folder: Folder of the documents.
        lengths: int32 [n], tokens of each document.
        n_sources: int32 [n], source tokens of each document, which come first.
        starts: int64 [n], index of each document's first token in ``tokens.bin``.
        skipped: Number of examples that were not stored, by reason.
        labels: float32 [n], correctness in [0, 1] of a scorer's (instruction, response) pairs; None for other
            documents.
        groups: int32 [n], number of the example that a pair belongs to; pairs of an example are adjacent. None for
            other documents.
        unknown: Unknown tokens of all documents.
        holes: int32 [h, 3], (document, begin, end) of the tokens between the targets of a conversation, sorted by
            document; `begin` and `end` count from the document's first token. None if each document has one target.
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
        """Return the tokenized example with this index; its tokens are a view of the memory map."""
        start = self.starts[index]
        tokens = _tokens(self.folder)[start : start + self.lengths[index]]
        label = None if self.labels is None else float(self.labels[index])
        holes = () if self.holes is None else rows_of(self.holes, index, index + 1)[:, 1:].tolist()
        return TokenizedExample(tokens, int(self.n_sources[index]), label, holes=tuple(map(tuple, holes)))


def rows_of(holes: NDArray[np.integer], first: int, last: int) -> NDArray[np.integer]:
    """Select the rows of an array ``holes`` that belong to the documents `first` to `last` - 1.

    >>> rows_of(np.array([[0, 5, 8], [2, 3, 4], [2, 6, 9]]), 1, 3).tolist()
    [[2, 3, 4], [2, 6, 9]]

    Args:
        holes: int [h, 3], (document, begin, end) of untrained tokens between two targets, sorted by document.
        first: Index of the first document.
        last: Index behind the last document.
    """
    # Bisection, since np.searchsorted would copy the column.
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
    """Return the bytes of a file in a memory map that holds no file descriptor; ``np.memmap`` holds one per map.

    A mixture has more tasks than a process may have open files. The map is private: a write would not reach the file.
    """
    import torch

    tensor = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    values: NDArray[np.uint8] = tensor.numpy()
    values.flags.writeable = False
    return values


def content_key(**parts: Any) -> str:
    """Return a digest of JSON-like values in 32 hexadecimal digits; it is equal for equal values on every machine."""
    text = json.dumps({"store": STORE_VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def folder_name(task: str, key: str) -> str:
    """Return the name of a task's folder: the task's name, with ``/`` replaced by ``-``, and the key."""
    return f"{task.replace('/', '-')[:80]}-{key}"


def partial_folder(folder: Path) -> Path:
    """Create and return a hidden folder beside `folder`, to be filled and then renamed to it.

    Every call returns another, empty folder; missing parents are created. Its name contains machine and process, by
    which ``remove_abandoned`` recognizes folders of ended processes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{folder.name[:80]}={this_process()}=", dir=folder.parent))


def remove_abandoned(root: Path) -> int:
    """Delete incomplete folders in `root` of processes of this machine that have ended; return their number."""
    left = [folder for folder in root.glob(".*=*-*=*") if has_ended(folder.name.rsplit("=", 2)[1])]
    for folder in left:
        remove(folder)
    return len(left)


def write_task(
    folder: Path, documents: Iterable[TokenizedExample | str], *, vocabulary: int, about: Mapping[str, Any]
) -> int:
    """Write the tokenized training examples (documents) of a task into a new folder, and return their number.

    The folder appears complete or not at all: it is filled under another name and renamed. If another process has
    written the same folder in the meantime, that folder is kept.

    Args:
        folder: Path of the new folder.
        documents: The documents, in order. A string in place of a document is the reason why an example is skipped; a
            ``Remark`` is a remark on a stored example. Both are counted in ``meta.json``.
        vocabulary: Number of token ids. Tokens are stored in 2 bytes if it is at most 65,536, in 4 bytes otherwise.
        about: Further entries of ``meta.json``.
    """
    dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    partial = partial_folder(folder)
    columns = _Columns()
    try:
        with naming(partial / "tokens.bin"), open(partial / "tokens.bin", "wb") as file:
            for document in documents:
                if isinstance(document, str):
                    columns.count(document)
                else:
                    file.write(document.input_ids.astype(dtype).tobytes())
                    columns.append(document)
        for name, column in columns.arrays().items():
            with naming(partial / f"{name}.npy"):
                np.save(partial / f"{name}.npy", column)
        seal_folder(partial, {"dtype": dtype.name, **columns.counts(), **about})
        rename_sealed(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY) and folder.exists():
            return len(columns)  # another process wrote the same content first
        raise
    return len(columns)


class _Columns:
    """Lengths, labels and counts of documents, collected while their tokens are written."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._n_sources: list[int] = []
        self._labels: list[float] = []
        self._groups: list[int] = []
        self._holes: list[tuple[int, int, int]] = []
        self._skipped: Counter[str] = Counter()
        self._remarks: Counter[str] = Counter()
        self._unknown = NOTHING_LOST

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, document: TokenizedExample) -> None:
        """Add a document."""
        self._holes += [(len(self), *hole) for hole in document.holes]
        self._lengths.append(len(document.input_ids))
        self._n_sources.append(document.n_source)
        self._unknown = self._unknown.plus(*document.unknown)
        if document.label is not None:
            self._labels.append(document.label)
        if document.group is not None:
            self._groups.append(document.group)

    def count(self, reason: str) -> None:
        """Count a skipped example by its reason, or a remark on a stored example."""
        (self._remarks if isinstance(reason, Remark) else self._skipped)[reason] += 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store, by the name of their file; labels, groups and holes only if there are any."""
        arrays: dict[str, NDArray[Any]] = {
            "lengths": np.array(self._lengths, dtype=np.int32),
            "n_sources": np.array(self._n_sources, dtype=np.int32),
            "labels": np.array(self._labels, dtype=np.float32),
            "groups": np.array(self._groups, dtype=np.int32),
            "holes": np.array(self._holes, dtype=np.int32),
        }
        return {name: array for name, array in arrays.items() if len(array) or name in ("lengths", "n_sources")}

    def counts(self) -> dict[str, Any]:
        """Return the counts to store in ``meta.json``."""
        return {
            "tokens": sum(self._lengths),
            "skipped": dict(self._skipped),
            "remarks": dict(self._remarks),
            "unknown": self._unknown,
        }


def damage(folder: Path, *, fully: bool = False) -> str | None:
    """Describe the damage to a task's folder of tokenized examples in a sentence; return None if it is intact.

    Args:
        folder: An existing folder, as ``write_task`` wrote it.
        fully: Whether to read all files and compare their checksums, or their sizes alone.
    """
    try:
        meta = read_sealed(folder)
        if fully:
            verify_files(folder, meta)
    except (ValueError, OSError) as error:
        return str(error).removesuffix(f": {WAY_OUT}")
    return None


def remove_damaged(folder: Path) -> None:
    """Delete a damaged folder. It is renamed first, so that no process opens it while files are deleted."""
    aside = partial_folder(folder)
    os.rename(folder, aside / "damaged")
    shutil.rmtree(aside, ignore_errors=True)


def open_task(folder: Path) -> StoredTask:
    """Open a task's folder of tokenized examples.

    The checksums of all files are compared but that of ``tokens.bin``, which may be large.

    Raises:
        ValueError: The folder does not exist, or one of its files is damaged.
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
