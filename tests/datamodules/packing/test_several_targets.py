"""Conversations in packed rows and on disk: several targets in one document."""

from pathlib import Path

import numpy as np
import pytest

from crosstask.datamodules.packing.collate import NO_HOLES, CausalRows, holes_of
from crosstask.datamodules.schema import IGNORE_INDEX, TokenizedExample
from crosstask.datamodules.storage.store import open_task, write_task
from crosstask.datamodules.storage.stored_tasks import open_tasks

X = IGNORE_INDEX
FIRST = TokenizedExample(np.array([10, 11, 12, 13, 14, 15]), 1, holes=((2, 4),))
SECOND = TokenizedExample(np.array([20, 21, 22, 23, 24, 25, 26, 27]), 2, holes=((3, 4), (5, 7)))
PLAIN = TokenizedExample(np.array([30, 31, 32]), 2)


def test_the_targets_of_a_packed_row_written_out() -> None:
    batch = CausalRows(16, 0).collate([[FIRST, SECOND]], step_targets=7)
    assert batch.input_ids[0].tolist() == [10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25, 26, 27, 0, 0]
    assert batch.targets[0].tolist() == [11, X, X, 14, 15, X, X, 22, X, 24, X, X, 27, X, X, X]
    assert batch.offsets.tolist() == [0, 6, 14, 16]


@pytest.mark.parametrize("length", range(1, 10))
def test_targets_are_counted_as_they_are_placed(length: int) -> None:
    """Also where a document loses its beginning: inside its source, a target, or between two."""
    kind, documents = CausalRows(length, 0), [FIRST, SECOND, PLAIN, SECOND]
    lengths = np.array([len(document.input_ids) for document in documents])
    n_sources = np.array([document.n_source for document in documents])
    counts = kind.target_counts(lengths, n_sources, holes_of(documents))
    placed = [(kind.collate([[document]], 1).targets != X).sum().item() for document in documents]
    assert counts.tolist() == placed
    assert holes_of([PLAIN]) is NO_HOLES


def test_documents_of_several_targets_are_stored(tmp_path: Path) -> None:
    tasks = {"plain": [PLAIN, PLAIN], "chats": [FIRST, PLAIN, SECOND], "more": [SECOND]}
    for name, documents in tasks.items():
        write_task(tmp_path / name, documents, vocabulary=100, about={"task": name})
    assert not (tmp_path / "plain" / "holes.npy").exists()  # one target a document costs nothing more
    assert open_task(tmp_path / "chats").document(2).holes == SECOND.holes

    stored = open_tasks([tmp_path / name for name in tasks], tmp_path)
    for task, documents in enumerate(tasks.values()):
        for index, document in enumerate(documents):
            read = stored.document(task, index)
            assert (read.input_ids.tolist(), read.n_source) == (document.input_ids.tolist(), document.n_source)
            assert read.holes == document.holes
    places = np.array([5, 0, 4, 2, 4])  # more/0, plain/0, chats/2, chats/0, chats/2
    drawn = [SECOND, PLAIN, SECOND, FIRST, SECOND]
    assert stored.holes_at(places).tolist() == holes_of(drawn).tolist()
    assert open_tasks([tmp_path / "plain"], tmp_path).holes_at(np.array([0, 1])).tolist() == []
