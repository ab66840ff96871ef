"""Which evaluation examples share a long n-gram with training data, task by task.

OPT-IML (arXiv 2212.12017, section 2.3 and appendix A.1) compares every training task with every evaluation task, and
judges the pairs where more than 1% of the evaluation examples have a 13-gram in common with training. The evaluation
side, which is small, is hashed into an index; the training side streams past it once, a task at a time, over several
processes.

The index takes at most 32 bytes for each evaluation n-gram, in files that all processes map, and 100 while it is built;
what a training task takes does not depend on its size. An example shorter than n words has no n-gram: it is counted,
not cleared.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .ngrams import BATCH_BYTES, Ngrams, ngrams

WORDS = 13
"""Words that must be equal, one after another (OPT-IML, and GPT-3 before it)."""

WITNESSES = 3
"""Overlaps kept as text for each pair of tasks, for a person to judge."""


class Document(NamedTuple):
    """The texts of one example: its input, and each of its references. No n-gram spans two texts."""

    id: str
    texts: tuple[str, ...]


class Witness(NamedTuple):
    """One overlap, to be read: the shared words, lower-cased, and who shares them."""

    evaluation: int
    train_id: str
    words: str


class TaskOverlap(NamedTuple):
    """What one training task shares with all evaluation examples.

    Args:
        task: The training task.
        examples: Training examples read.
        hits: int64 [H], evaluation examples with a common n-gram, ascending.
        witnesses: Some of the overlaps of each evaluation task.
    """

    task: str
    examples: int
    hits: NDArray[np.int64]
    witnesses: tuple[Witness, ...]


@dataclass(frozen=True)
class EvaluationIndex:
    """The n-grams of all evaluation examples; E examples, U different n-grams, P (n-gram, example) pairs.

    Args:
        n: Words of an n-gram.
        tasks: Names of the evaluation tasks.
        ids: The examples' ids.
        task_of: int32 [E], which task each example belongs to.
        short: bool [E], examples without any n-gram.
        grams: uint64 [U], ascending.
        first: int64 [U + 1], where each n-gram's examples begin in ``examples``.
        examples: int32 [P].
        sieve: uint8, a bit for every value of a hash's low bits that occurs: most training n-grams fall through it.
    """

    n: int
    tasks: tuple[str, ...]
    ids: tuple[str, ...]
    task_of: NDArray[np.int32]
    short: NDArray[np.bool_]
    grams: NDArray[np.uint64]
    first: NDArray[np.int64]
    examples: NDArray[np.int32]
    sieve: NDArray[np.uint8]

    def find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in ``hashes`` that the index holds, and which n-gram each of them is."""
        bits = hashes & np.uint64(8 * len(self.sieve) - 1)
        sieved = self.sieve[bits >> np.uint64(3)] >> (bits & np.uint64(7)).astype(np.uint8)
        maybe = np.flatnonzero(sieved & np.uint8(1))
        places = np.searchsorted(self.grams, hashes[maybe])
        places[places == len(self.grams)] = 0
        held = self.grams[places] == hashes[maybe] if len(self.grams) else np.zeros(len(maybe), dtype=bool)
        return maybe[held], places[held]

    def save(self, folder: Path) -> None:
        """Write the index as files that `open` maps."""
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "index.json").write_text(json.dumps({"n": self.n, "tasks": self.tasks, "ids": self.ids}))

    @classmethod
    def open(cls, folder: Path) -> "EvaluationIndex":
        """The index that was saved in `folder`; its arrays stay on disk, shared by all processes that open it."""
        about = json.loads((folder / "index.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return cls(about["n"], tuple(about["tasks"]), ids=tuple(about["ids"]), **arrays)


_ARRAYS = ("task_of", "short", "grams", "first", "examples", "sieve")


def index_evaluation(tasks: Mapping[str, Iterable[Document]], n: int = WORDS) -> EvaluationIndex:
    """Hash every evaluation example of every task."""
    hashes: list[NDArray[np.uint64]] = []
    owners: list[NDArray[np.int32]] = []
    task_of: list[int] = []
    ids: list[str] = []
    for number, documents in enumerate(tasks.values()):
        for batch in _batches(documents):
            found, document_of = _hash(batch, n)
            hashes.append(found.hashes)
            owners.append((document_of + len(ids)).astype(np.int32))
            ids += [document.id for document in batch]
            task_of += [number] * len(batch)
    gram = np.concatenate(hashes) if hashes else np.empty(0, dtype=np.uint64)
    owner = np.concatenate(owners) if owners else np.empty(0, dtype=np.int32)
    order = np.argsort(gram, kind="stable")
    gram, owner = gram[order], owner[order]
    begins = np.flatnonzero(np.diff(gram, prepend=~gram[:1]))
    short = np.ones(len(ids), dtype=bool)
    short[owner] = False
    return EvaluationIndex(
        n,
        tuple(tasks),
        tuple(ids),
        np.array(task_of, dtype=np.int32),
        short,
        gram[begins],
        np.append(begins, len(gram)),
        owner,
        _sieve(gram[begins]),
    )


def _sieve(grams: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """32 to 64 bits for each n-gram: one in 32 others falls through by chance at most."""
    bits = 1 << max(32 * len(grams), 64).bit_length()
    low = grams & np.uint64(bits - 1)
    sieve = np.zeros(bits // 8, dtype=np.uint8)
    np.bitwise_or.at(sieve, low >> np.uint64(3), np.uint8(1) << (low & np.uint64(7)).astype(np.uint8))
    return sieve


def overlap(index: EvaluationIndex, task: str, documents: Iterable[Document]) -> TaskOverlap:
    """Stream one training task past the index."""
    met = np.zeros(len(index.grams), dtype=bool)
    hit = np.zeros(len(index.ids), dtype=bool)
    kept = np.zeros(len(index.tasks), dtype=np.int64)
    witnesses: list[Witness] = []
    count = 0
    for batch in _batches(documents):
        count += len(batch)
        found, document_of = _hash(batch, index.n)
        places, grams = index.find(found.hashes)
        grams, earliest = np.unique(grams, return_index=True)
        new = ~met[grams]
        met[grams] = True
        for example, place in _first_hits(index, grams[new], places[earliest[new]], hit):
            if kept[index.task_of[example]] < WITNESSES:
                kept[index.task_of[example]] += 1
                witnesses.append(Witness(example, batch[document_of[place]].id, found.words(place)))
    return TaskOverlap(task, count, np.flatnonzero(hit), tuple(witnesses))


def _first_hits(
    index: EvaluationIndex, grams: NDArray[np.int64], places: NDArray[np.int64], hit: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Mark every example that holds one of the n-grams; those not marked before, each with a place of its n-gram."""
    lengths = index.first[grams + 1] - index.first[grams]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    examples, chosen = np.unique(index.examples[np.repeat(index.first[grams], lengths) + within], return_index=True)
    novel = ~hit[examples]
    hit[examples] = True
    yield from zip(examples[novel].tolist(), np.repeat(places, lengths)[chosen[novel]].tolist(), strict=True)


def overlaps(
    index: EvaluationIndex, tasks: Sequence[str], read: Callable[[str], Iterable[Document]], *, processes: int = 1
) -> Iterator[TaskOverlap]:
    """The overlap of each training task with the evaluation side, in the order of `tasks`.

    Args:
        index: The evaluation side.
        tasks: Training tasks.
        read: Documents of one task; with several processes, a function that pickles.
        processes: How many read and hash at a time.
    """
    if processes < 1:
        raise ValueError(f"processes must be 1 or more, got {processes}")
    if processes == 1:
        yield from (overlap(index, task, read(task)) for task in tasks)
        return
    with TemporaryDirectory(prefix="crosstask-overlap-") as folder:
        index.save(Path(folder))
        context = get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(Path(folder), read)) as pool:
            yield from pool.map(_overlap_of, tasks)


_worker: list[tuple[EvaluationIndex, Callable[[str], Iterable[Document]]]] = []  # what a worker process was given


def _start(folder: Path, read: Callable[[str], Iterable[Document]]) -> None:
    _worker.append((EvaluationIndex.open(folder), read))


def _overlap_of(task: str) -> TaskOverlap:
    index, read = _worker[0]
    return overlap(index, task, read(task))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in groups of about BATCH_BYTES characters."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += sum(map(len, document.texts))
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hash(batch: Sequence[Document], n: int) -> tuple[Ngrams, NDArray[np.int64]]:
    """The batch's n-grams, and which of its documents each belongs to."""
    document_of_text = np.repeat(np.arange(len(batch)), [len(document.texts) for document in batch])
    found = ngrams([text for document in batch for text in document.texts], n)
    return found, document_of_text[found.texts]
