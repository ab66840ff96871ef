"""The tasks of a mixture as one sequence of documents, whose lengths are in memory-mapped files.

Document i of task t has index ``firsts[t] + i`` in the sequence. The arrays of all tasks are concatenated in a folder
``joined-...`` of the store, which is written once for a mixture. For 18 million examples these files have 290 MB. All
processes of a machine share their pages, and the system can free them.
"""

import errno
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic_files import naming
from ..rendering.unknown_tokens import UnknownTokens
from ..schema import TokenizedExample
from .checksums import read_sealed, rename_sealed, seal_folder
from .store import StoredTask, content_key, damage, open_task, partial_folder, remove_damaged, rows_of

COLUMNS: dict[str, Any] = {
    "lengths": np.int32,
    "n_sources": np.int32,
    "starts": np.int64,
    "labels": np.float32,
    "groups": np.int32,
    "holes": np.int64,
}
"""Files of a joined folder. Labels and groups are empty unless documents are scored pairs, holes unless some are
conversations."""


@dataclass(frozen=True)
class StoredTasks(Sequence[StoredTask]):
    """The N tokenized training examples (documents) of all tasks of a run, in memory maps that processes share.

    Item t of the sequence is the ``StoredTask`` of task t.

    Args:
        folders: Folder of each task.
        firsts: int64 [tasks + 1], index of each task's first document among all documents; the last is N.
        lengths: int32 [N], tokens of each document.
        n_sources: int32 [N], source tokens of each document.
        starts: int64 [N], index of a document's first token in its task's ``tokens.bin``.
        skipped: Number of examples that were not stored, by reason, for each task.
        labels: float32 [N], correctness in [0, 1] of a scorer's (instruction, response) pairs; None for other
            documents.
        groups: int32 [N], number of the example within its task that a pair belongs to; None for other documents.
        unknown: Unknown tokens of each task, by the task's name.
        holes: int64 [h, 3], (document, begin, end) of the tokens between the targets of a conversation, with the
            document's index among all; None if each document has one target.
        remarks: Number of each remark on stored examples, over all tasks.
    """

    folders: tuple[Path, ...]
    firsts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    n_sources: NDArray[np.int32]
    starts: NDArray[np.int64]
    skipped: tuple[Mapping[str, int], ...]
    labels: NDArray[np.float32] | None = None
    groups: NDArray[np.int32] | None = None
    unknown: Mapping[str, UnknownTokens] = field(default_factory=dict)
    holes: NDArray[np.int64] | None = None
    remarks: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, task: Any) -> Any:
        place = slice(int(self.firsts[task]), int(self.firsts[task + 1]))
        labels = None if self.labels is None else self.labels[place]
        groups = None if self.groups is None else self.groups[place]
        arrays = self.lengths[place], self.n_sources[place], self.starts[place]
        holes = (
            None if self.holes is None else rows_of(self.holes, place.start, place.stop) - np.array([place.start, 0, 0])
        )
        return StoredTask(self.folders[task], *arrays, self.skipped[task], labels, groups, holes=holes)

    def __iter__(self) -> Iterator[StoredTask]:
        return (self[task] for task in range(len(self)))

    @property
    def sizes(self) -> list[int]:
        """Number of documents of each task."""
        return np.diff(self.firsts).tolist()

    def holes_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which tokens between the targets of some documents have no loss, as int64 [h, 3].

        Each of the h rows is (index into `places`, begin, end), positions in the document, end exclusive.

        Args:
            places: int64 [n], indices of the documents among all documents.
        """
        if self.holes is None:
            return np.empty((0, 3), dtype=np.int64)
        begins, ends = (np.searchsorted(self.holes[:, 0], places, side=side) for side in ("left", "right"))
        counts = ends - begins
        rows = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return np.column_stack([np.repeat(np.arange(len(places)), counts), np.asarray(self.holes[rows])[:, 1:]])

    def document(self, task: int, index: int) -> TokenizedExample:
        """Return the tokenized example `index` of task `task`, both counted from 0."""
        return self[task].document(index)


def open_tasks(folders: Iterable[Path], root: Path) -> StoredTasks:
    """Open the tokenized examples of several tasks as one sequence.

    Their arrays are concatenated in a folder under `root`, unless it exists. An existing one is compared with its
    checksums and with the tasks; a damaged one is reported and written again.

    Args:
        folders: Folder of each task, in the order of the sequence.
        root: Root of the store.

    Raises:
        ValueError: A task's folder does not exist, or one of its files is damaged.
    """
    listed = tuple(folders)
    metas = [read_sealed(folder) for folder in listed]
    joined = root / f"joined-{content_key(tasks=[folder.name for folder in listed], columns=list(COLUMNS))}"
    tasks = {folder.name: meta["files"] for folder, meta in zip(listed, metas, strict=True)}
    if joined.is_dir() and (problem := _joined_damage(joined, tasks)):
        warnings.warn(f"{problem}; joining the tasks again", stacklevel=2)
        remove_damaged(joined)
    if not joined.is_dir():
        _join(listed, joined, tasks)
    with naming(joined):
        firsts = np.load(joined / "firsts.npy")
        columns = {name: _mapped(joined / f"{name}.bin", dtype) for name, dtype in COLUMNS.items()}
    labels, groups, holes = (columns[name] if len(columns[name]) else None for name in ("labels", "groups", "holes"))
    holes = None if holes is None else holes.reshape(-1, 3)
    arrays = columns["lengths"], columns["n_sources"], columns["starts"]
    skipped = tuple(meta["skipped"] for meta in metas)
    names = [meta.get("task", folder.name) for meta, folder in zip(metas, listed, strict=True)]
    unknown = {name: UnknownTokens(*meta["unknown"]) for name, meta in zip(names, metas, strict=True)}
    remarks = sum((Counter[str](meta["remarks"]) for meta in metas), Counter[str]())
    return StoredTasks(listed, firsts, *arrays, skipped, labels, groups, unknown, holes, dict(remarks))


def _joined_damage(joined: Path, tasks: Mapping[str, Any]) -> str | None:
    """Describe the damage to a joined folder in a sentence; return None if it is intact."""
    if problem := damage(joined, fully=True):
        return problem
    return None if read_sealed(joined)["tasks"] == tasks else f"{joined} was joined from other files of its tasks"


def _join(folders: Sequence[Path], joined: Path, tasks: Mapping[str, Any]) -> None:
    """Write the concatenated arrays of tasks into the folder `joined`; `tasks` are the checksums of their files."""
    partial = partial_folder(joined)
    try:
        sizes = []
        with naming(partial), ExitStack() as opened:
            files = {name: opened.enter_context(open(partial / f"{name}.bin", "wb")) for name in COLUMNS}
            for folder in folders:
                task = open_task(folder)
                sizes.append(len(task))
                for name, file in files.items():
                    values = getattr(task, name)
                    if values is not None:
                        values = np.add(values, [sum(sizes[:-1]), 0, 0]) if name == "holes" else values
                        file.write(values.astype(COLUMNS[name]).tobytes())
            np.save(partial / "firsts.npy", np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64))
        seal_folder(partial, {"tasks": tasks})
        rename_sealed(partial, joined)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY) and joined.exists():
            return  # another process joined the same tasks first
        raise


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
