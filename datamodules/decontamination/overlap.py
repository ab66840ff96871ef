"""Search for evaluation examples that share a long n-gram with a training task.

OPT-IML (arXiv 2212.12017, section 2.3 and appendix A.1) compares every training task with every evaluation task, and
inspects the pairs in which more than 1% of the evaluation examples have a 13-gram in common with training. Here the
evaluation examples are hashed into an index, and the training tasks are compared with it one at a time, in several
processes.

The index takes at most 32 bytes for each evaluation n-gram, in files that all processes map, and 100 while it is built.
The memory for a training task does not depend on its size. An example of fewer than n words has no n-gram; such
examples are counted, since they cannot be compared.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data_files import read_json
from ..worker_processes import end_with_parent
from .ngrams import BATCH_BYTES, Ngrams, ngrams

WORDS = 13
"""Length of the compared n-grams in words (OPT-IML and GPT-3)."""

EVIDENCE = 3
"""Number of overlaps of a pair of tasks whose text is kept for the report."""


class Document(NamedTuple):
    """Texts of one example that are searched for shared n-grams: its input and its references.

    No n-gram spans two texts.

    Args:
        id: Id of the example.
        texts: The texts.
    """

    id: str
    texts: tuple[str, ...]


class SharedNgram(NamedTuple):
    """An n-gram that a training example and an evaluation example share.

    Args:
        evaluation: Index of the evaluation example in ``EvaluationIndex.ids``.
        train_id: Id of the training example.
        words: Text of the n-gram, lower-cased.
    """

    evaluation: int
    train_id: str
    words: str


class TaskOverlap(NamedTuple):
    """Evaluation examples that share an n-gram with one training task.

    Args:
        task: Name of the training task.
        examples: Number of all training examples of this task.
        hits: int64 [H], the evaluation examples that share an n-gram with it: their indices in the ``EvaluationIndex``,
            ascending.
        evidence: Some of the shared n-grams, at most ``EVIDENCE`` for each evaluation task.
    """

    task: str
    examples: int
    hits: NDArray[np.int64]
    evidence: tuple[SharedNgram, ...]


@dataclass(frozen=True)
class EvaluationIndex:
    """Index of the n-grams of all evaluation examples: E examples, U distinct n-grams, P (n-gram, example) pairs.

    Args:
        n: Number of words of an n-gram.
        tasks: Names of the evaluation tasks.
        ids: Ids of the E examples.
        task_of: int32 [E], index of each example's task.
        short: bool [E], whether an example has fewer than `n` words in each text, and so no n-gram.
        grams: uint64 [U], hashes of the n-grams, ascending.
        first: int64 [U + 1], index in ``examples`` of each n-gram's first example; the last is P.
        examples: int32 [P], indices of the examples that have the n-gram.
        sieve: uint8, a bit for each value of a hash's low bits, set if it occurs; most other n-grams are ruled out by
            it without a search.
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
        """Find which n-grams of a training task occur in evaluation examples.

        Args:
            hashes: uint64 [G], hashes of the training task's n-grams.

        Returns:
            Two arrays, int64 [F], for the F hashes that occur: their indices in `hashes`, and in ``grams``.
        """
        bits = hashes & np.uint64(8 * len(self.sieve) - 1)
        sieved = self.sieve[bits >> np.uint64(3)] >> (bits & np.uint64(7)).astype(np.uint8)
        maybe = np.flatnonzero(sieved & np.uint8(1))
        places = np.searchsorted(self.grams, hashes[maybe])
        places[places == len(self.grams)] = 0
        held = self.grams[places] == hashes[maybe] if len(self.grams) else np.zeros(len(maybe), dtype=bool)
        return maybe[held], places[held]

    def save(self, folder: Path) -> None:
        """Write the index to files in a folder, from which ``open`` reads it."""
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "index.json").write_text(json.dumps({"n": self.n, "tasks": self.tasks, "ids": self.ids}))

    @classmethod
    def open(cls, folder: Path) -> "EvaluationIndex":
        """Open a saved index; its arrays are memory-mapped and shared by all processes that open it."""
        metadata = read_json(folder / "index.json")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return cls(metadata["n"], tuple(metadata["tasks"]), ids=tuple(metadata["ids"]), **arrays)


_ARRAYS = ("task_of", "short", "grams", "first", "examples", "sieve")


def index_evaluation(tasks: Mapping[str, Iterable[Document]], n: int = WORDS) -> EvaluationIndex:
    """Hash the n-grams of all evaluation examples into an index, with which training tasks are compared.

    Args:
        tasks: Evaluation examples of each task.
        n: Number of words of an n-gram.
    """
    hashes: list[NDArray[np.uint64]] = []
    owners: list[NDArray[np.int32]] = []
    task_of: list[int] = []
    ids: list[str] = []
    for number, documents in enumerate(tasks.values()):
        for batch in _batches(documents):
            batch_ngrams, document_of = _hash(batch, n)
            hashes.append(batch_ngrams.hashes)
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
    """Return the sieve, with 32 to 64 bits for each n-gram; at most one in 32 other n-grams passes it by chance."""
    bits = 1 << max(32 * len(grams), 64).bit_length()
    low = grams & np.uint64(bits - 1)
    sieve = np.zeros(bits // 8, dtype=np.uint8)
    np.bitwise_or.at(sieve, low >> np.uint64(3), np.uint8(1) << (low & np.uint64(7)).astype(np.uint8))
    return sieve


def overlap(index: EvaluationIndex, task: str, documents: Iterable[Document]) -> TaskOverlap:
    """Return the evaluation examples that share an n-gram with one training task.

    Args:
        index: Index of the evaluation examples.
        task: Name of the training task.
        documents: Examples of the training task.
    """
    seen = np.zeros(len(index.grams), dtype=bool)
    hit = np.zeros(len(index.ids), dtype=bool)
    kept = np.zeros(len(index.tasks), dtype=np.int64)
    evidence: list[SharedNgram] = []
    count = 0
    for batch in _batches(documents):
        count += len(batch)
        batch_ngrams, document_of = _hash(batch, index.n)
        places, grams = index.find(batch_ngrams.hashes)
        grams, earliest = np.unique(grams, return_index=True)
        new = ~seen[grams]
        seen[grams] = True
        for example, place in _first_hits(index, grams[new], places[earliest[new]], hit):
            if kept[index.task_of[example]] < EVIDENCE:
                kept[index.task_of[example]] += 1
                evidence.append(SharedNgram(example, batch[document_of[place]].id, batch_ngrams.words(place)))
    return TaskOverlap(task, count, np.flatnonzero(hit), tuple(evidence))


def _first_hits(
    index: EvaluationIndex, grams: NDArray[np.int64], places: NDArray[np.int64], hit: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Mark evaluation examples that have one of the n-grams in `hit`; yield (example, place) of each new one.

    `grams` are indices of n-grams in the index, `places` their indices in the training batch.
    """
    lengths = index.first[grams + 1] - index.first[grams]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    examples, first_pair = np.unique(index.examples[np.repeat(index.first[grams], lengths) + within], return_index=True)
    novel = ~hit[examples]
    hit[examples] = True
    yield from zip(examples[novel].tolist(), np.repeat(places, lengths)[first_pair[novel]].tolist(), strict=True)


def overlaps(
    index: EvaluationIndex, tasks: Sequence[str], read: Callable[[str], Iterable[Document]], *, processes: int = 1
) -> Iterator[TaskOverlap]:
    """Yield, for each training task, the evaluation examples that share an n-gram with it, in the order of `tasks`.

    Args:
        index: Index of the evaluation examples.
        tasks: Names of the training tasks.
        read: Function that returns the examples of a task; with several processes it must be picklable.
        processes: Number of processes that read and hash.

    Raises:
        ValueError: `processes` is below 1, or a process died.
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
            try:
                yield from pool.map(_overlap_of, tasks)
            except BrokenProcessPool as error:
                raise ValueError(
                    "a process that compared tasks died, perhaps because memory ran out: run it again, with fewer "
                    "processes"
                ) from error


_worker: list[tuple[EvaluationIndex, Callable[[str], Iterable[Document]]]] = []  # the arguments of a worker process


def _start(folder: Path, read: Callable[[str], Iterable[Document]]) -> None:
    end_with_parent()
    _worker.append((EvaluationIndex.open(folder), read))


def _overlap_of(task: str) -> TaskOverlap:
    index, read = _worker[0]
    return overlap(index, task, read(task))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield batches of documents with about BATCH_BYTES characters each."""
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
    """Return the n-grams of a batch, and the index of each n-gram's document."""
    document_of_text = np.repeat(np.arange(len(batch)), [len(document.texts) for document in batch])
    batch_ngrams = ngrams([text for document in batch for text in document.texts], n)
    return batch_ngrams, document_of_text[batch_ngrams.texts]
