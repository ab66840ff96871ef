"""Tokenized examples on disk: one folder per task, memory-mapped, addressed by content, written atomically.

A folder holds ``tokens.bin`` (uint16 or uint32, all documents end to end), ``lengths.npy`` and ``n_sources.npy``
(int32 [n]), ``labels.npy`` (float32 [n]) and ``groups.npy`` (int32 [n]) if the documents are scored pairs, and
``meta.json``. Its name is a digest of everything that decides its content: a changed file, prompt form, seed or
tokenizer gives another folder, and equal content is never tokenized twice.
"""

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..schema import TokenizedExample

STORE_VERSION = 1
"""Raise it when the files' layout changes."""


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
        groups: int32 [n], the same number for the scored pairs of an example, which stand together; None for others.
    """

    folder: Path
    lengths: NDArray[np.int32]
    n_sources: NDArray[np.int32]
    starts: NDArray[np.int64]
    skipped: Mapping[str, int]
    labels: NDArray[np.float32] | None = None
    groups: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> TokenizedExample:
        start = self.starts[index]
        tokens = _tokens(self.folder)[start : start + self.lengths[index]]
        label = None if self.labels is None else float(self.labels[index])
        return TokenizedExample(tokens, int(self.n_sources[index]), label)


# Every memory map holds a file descriptor, and a mixture has more tasks than a process may have open files.
@lru_cache(maxsize=256)
def _tokens(folder: Path) -> NDArray[np.unsignedinteger]:
    meta = json.loads((folder / "meta.json").read_text())
    if meta["tokens"] == 0:
        return np.empty(0, dtype=meta["dtype"])
    return np.memmap(folder / "tokens.bin", dtype=meta["dtype"], mode="r")


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
    """Delete incomplete folders of processes of this machine that have ended; return how many."""
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
    """Write a task's documents, and return how many; an item that is a string is a skipped example's reason.

    The folder appears complete or not at all: it is filled under another name and renamed.
    """
    dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    partial = partial_folder(folder)
    lengths: list[int] = []
    n_sources: list[int] = []
    labels: list[float] = []
    groups: list[int] = []
    skipped: Counter[str] = Counter()
    try:
        with open(partial / "tokens.bin", "wb") as file:
            for document in documents:
                if isinstance(document, str):
                    skipped[document] += 1
                    continue
                file.write(document.input_ids.astype(dtype).tobytes())
                lengths.append(len(document.input_ids))
                n_sources.append(document.n_source)
                if document.label is not None:
                    labels.append(document.label)
                if document.group is not None:
                    groups.append(document.group)
        np.save(partial / "lengths.npy", np.array(lengths, dtype=np.int32))
        np.save(partial / "n_sources.npy", np.array(n_sources, dtype=np.int32))
        if labels:
            np.save(partial / "labels.npy", np.array(labels, dtype=np.float32))
        if groups:
            np.save(partial / "groups.npy", np.array(groups, dtype=np.int32))
        meta = {"dtype": dtype.name, "tokens": sum(lengths), "skipped": dict(skipped), **about}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1))
        partial.chmod(0o755)
        os.rename(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and folder.exists():
            return len(lengths)  # another process wrote the same content first
        raise
    return len(lengths)


def read_meta(folder: Path) -> dict[str, Any]:
    """The metadata of a stored task: ``tokens``, ``dtype``, ``skipped`` and the `about` of ``write_task``.

    Raises:
        ValueError: The folder is not there, or its tokens are not as many as were written.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: call prepare_data() before setup()")
    try:
        meta = json.loads((folder / "meta.json").read_text())
        on_disk = (folder / "tokens.bin").stat().st_size // np.dtype(meta["dtype"]).itemsize
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} is damaged ({error}); delete it and it will be prepared again") from error
    if on_disk != meta["tokens"]:
        raise ValueError(
            f"{folder} is damaged: {on_disk} tokens on disk, {meta['tokens']} by its meta.json; "
            "delete it and it will be prepared again"
        )
    return meta


def open_task(folder: Path) -> StoredTask:
    """Open what ``write_task`` wrote.

    Raises:
        ValueError: The folder is not there, or its files contradict each other.
    """
    meta = read_meta(folder)
    try:
        lengths = np.load(folder / "lengths.npy")
        n_sources = np.load(folder / "n_sources.npy")
        labels, groups = (
            np.load(folder / name) if (folder / name).exists() else None for name in ("labels.npy", "groups.npy")
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is damaged ({error}); delete it and it will be prepared again") from error
    if lengths.sum() != meta["tokens"] or len(lengths) != len(n_sources):
        raise ValueError(
            f"{folder} is damaged: {meta['tokens']} tokens on disk, {lengths.sum()} by its lengths; "
            "delete it and it will be prepared again"
        )
    for name, of_pairs in (("labels", labels), ("groups", groups)):
        if of_pairs is not None and len(of_pairs) != len(lengths):
            raise ValueError(
                f"{folder} is damaged: {len(of_pairs)} {name} for {len(lengths)} pairs; "
                "delete it and it will be prepared again"
            )
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)[:-1]]) if len(lengths) else np.empty(0)
    return StoredTask(folder, lengths, n_sources, starts.astype(np.int64), meta["skipped"], labels, groups)
