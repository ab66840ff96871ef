"""Tokenized examples on disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosstask.datamodules.schema import TokenizedExample
from crosstask.datamodules.storage.store import _tokens, content_key, damage, open_task, write_task
from crosstask.datamodules.storage.stored_tasks import open_tasks

DOCUMENTS = [TokenizedExample(np.array([5, 6, 7]), 2), "empty input", TokenizedExample(np.array([8]), 0)]


def test_documents_come_back_and_refusals_are_counted(tmp_path: Path) -> None:
    write_task(tmp_path / "task", DOCUMENTS, vocabulary=600, about={"category": "Copying"})
    stored = open_task(tmp_path / "task")
    assert len(stored) == 2
    assert stored.skipped == {"empty input": 1}
    assert [(d.input_ids.tolist(), d.n_source) for d in map(stored.document, range(2))] == [([5, 6, 7], 2), ([8], 0)]
    assert json.loads((tmp_path / "task" / "meta.json").read_text())["category"] == "Copying"


@pytest.mark.parametrize(("vocabulary", "bytes_each"), [(65_536, 2), (65_537, 4)])
def test_ids_take_two_bytes_while_the_vocabulary_allows(tmp_path: Path, vocabulary: int, bytes_each: int) -> None:
    largest = TokenizedExample(np.array([vocabulary - 1]), 0)
    write_task(tmp_path / "task", [largest], vocabulary=vocabulary, about={})
    assert (tmp_path / "task" / "tokens.bin").stat().st_size == bytes_each
    assert open_task(tmp_path / "task").document(0).input_ids.tolist() == [vocabulary - 1]


def test_a_task_of_refusals_alone_is_stored_too(tmp_path: Path) -> None:
    write_task(tmp_path / "task", ["empty target"] * 3, vocabulary=600, about={})
    assert len(open_task(tmp_path / "task")) == 0


def test_hundreds_of_tasks_stay_open_without_file_descriptors(tmp_path: Path) -> None:
    """A mixture has more tasks than a process may have open files, and opening one again takes three reads."""
    folders = [tmp_path / f"task{number}" for number in range(300)]
    for folder in folders:
        write_task(folder, DOCUMENTS, vocabulary=600, about={})
    tasks = [open_task(folder) for folder in folders]
    opened, descriptors = _tokens.cache_info().misses, len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        assert all(task.document(0).input_ids.tolist() == [5, 6, 7] for task in tasks)
    assert _tokens.cache_info().misses - opened == 300
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
    assert not tasks[0].document(0).input_ids.flags.writeable


def test_an_interrupted_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    def dying():  # type: ignore[no-untyped-def]
        yield DOCUMENTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_task(tmp_path / "task", dying(), vocabulary=600, about={})
    assert list(tmp_path.iterdir()) == []


def test_the_second_of_two_writers_yields(tmp_path: Path) -> None:
    write_task(tmp_path / "task", DOCUMENTS, vocabulary=600, about={})
    write_task(tmp_path / "task", DOCUMENTS, vocabulary=600, about={})
    assert [path.name for path in tmp_path.iterdir()] == ["task"]


def flip(path: Path, place: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_folder_that_is_not_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist: call prepare_data"):
        open_task(tmp_path / "task")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: (folder / "tokens.bin").write_bytes(b"\0\0"),
            r"tokens\.bin is damaged, it has 2 bytes instead",
        ),
        (lambda folder: (folder / "n_sources.npy").unlink(), r"n_sources\.npy is missing"),
        (lambda folder: flip(folder / "lengths.npy", -8), r"lengths\.npy is damaged, its checksum differs"),
        (lambda folder: flip(folder / "meta.json", 30), r"meta\.json is damaged"),
        (lambda folder: (folder / "meta.json").write_text("[]"), r"meta\.json is damaged"),
        (lambda folder: (folder / "meta.json").unlink(), r"meta\.json is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, harm: Callable[[Path], Any], message: str) -> None:
    write_task(tmp_path / "task", DOCUMENTS, vocabulary=600, about={})
    harm(tmp_path / "task")
    with pytest.raises(ValueError, match=f"{message}.*`crosstask prepare` writes it again"):
        open_task(tmp_path / "task")


def test_every_flipped_byte_of_a_stored_task_is_found(tmp_path: Path) -> None:
    write_task(tmp_path / "task", DOCUMENTS, vocabulary=600, about={})
    assert damage(tmp_path / "task", fully=True) is None
    for path in (tmp_path / "task").iterdir():
        intact = path.read_bytes()
        for place in range(len(intact)):
            flip(path, place)
            assert path.name in (damage(tmp_path / "task", fully=True) or ""), (path.name, place)
            path.write_bytes(intact)


@pytest.mark.parametrize("name", ["lengths.bin", "starts.bin", "firsts.npy", "meta.json"])
def test_joined_files_that_are_damaged_are_joined_again(tmp_path: Path, name: str) -> None:
    write_task(tmp_path / "one", DOCUMENTS, vocabulary=600, about={})
    open_tasks([tmp_path / "one"], tmp_path)
    (path,) = tmp_path.glob(f"joined-*/{name}")
    intact = path.read_bytes()
    flip(path, len(intact) // 2)
    with pytest.warns(UserWarning, match=rf"{name} is damaged.*joining the tasks again"):
        assert open_tasks([tmp_path / "one"], tmp_path).lengths.tolist() == [3, 1]
    assert path.read_bytes() == intact


def test_joined_files_of_other_tasks_are_joined_again(tmp_path: Path) -> None:
    """A folder of the same name holds other documents, e.g. after it was copied from elsewhere."""
    write_task(tmp_path / "one", DOCUMENTS, vocabulary=600, about={})
    open_tasks([tmp_path / "one"], tmp_path)
    shutil.rmtree(tmp_path / "one")
    write_task(tmp_path / "one", [TokenizedExample(np.array([9, 9]), 1)], vocabulary=600, about={})
    with pytest.warns(UserWarning, match="was joined from other files of its tasks; joining the tasks again"):
        assert open_tasks([tmp_path / "one"], tmp_path).lengths.tolist() == [2]


def test_a_store_that_is_deleted_under_a_run_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_task(tmp_path / name, DOCUMENTS, vocabulary=600, about={})
    tasks = open_tasks([tmp_path / "one", tmp_path / "two"], tmp_path)
    assert tasks.document(0, 0).input_ids.tolist() == [5, 6, 7]
    shutil.rmtree(tmp_path / "two")
    with pytest.raises(ValueError, match="two cannot be read any more, was the store deleted during this run"):
        tasks.document(1, 0)


def test_tasks_are_joined_once_and_mapped(tmp_path: Path) -> None:
    write_task(tmp_path / "one", DOCUMENTS, vocabulary=600, about={})
    write_task(tmp_path / "none", ["empty target"], vocabulary=600, about={})
    write_task(tmp_path / "two", [TokenizedExample(np.array([9, 9]), 1)], vocabulary=600, about={})
    folders = [tmp_path / name for name in ("one", "none", "two")]
    tasks = open_tasks(folders, tmp_path)
    assert (tasks.sizes, tasks.firsts.tolist()) == ([2, 0, 1], [0, 2, 2, 3])
    assert isinstance(tasks.lengths, np.memmap)
    assert (tasks.lengths.tolist(), tasks.n_sources.tolist(), tasks.labels) == ([3, 1, 2], [2, 0, 1], None)
    assert tasks.document(0, 1).input_ids.tolist() == [8]
    assert tasks.document(2, 0).input_ids.tolist() == [9, 9]
    assert [task.skipped for task in tasks] == [{"empty input": 1}, {"empty target": 1}, {}]
    (stamp,) = [path.stat().st_mtime_ns for path in tmp_path.glob("joined-*/lengths.bin")]
    open_tasks(folders, tmp_path)
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("joined-*/lengths.bin")] == [stamp]
    (tmp_path / "two" / "tokens.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"two/tokens\.bin is damaged, it has 0 bytes instead of 4"):
        open_tasks(folders, tmp_path)


def test_joined_tasks_keep_their_labels(tmp_path: Path) -> None:
    write_task(tmp_path / "one", [TokenizedExample(np.array([9, 9]), 1, 0.25)], vocabulary=600, about={})
    tasks = open_tasks([tmp_path / "one"], tmp_path)
    assert tasks.document(0, 0).label == 0.25


def test_keys_depend_on_content_and_not_on_order() -> None:
    assert content_key(a=1, b="x") == content_key(b="x", a=1)
    assert content_key(a=1, b="x") != content_key(a=2, b="x")
