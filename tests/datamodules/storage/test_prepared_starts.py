"""A prepared run starts without reading a data file, and notices when one has changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.benchmarks import FLAN, Benchmark, CrossFit, FileTasks, FlanRows, PretrainingText
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.storage.object_digests import declared_state
from crosstask.datamodules.tracked_files import is_current, path_stamps

Make = Callable[..., InstructionTuningDataModule]


@pytest.fixture
def data(toybench: Path, tmp_path: Path) -> Path:
    """A copy of six tasks, one of which also validates and is tested."""
    folder = tmp_path / "data"
    names = sorted(path.stem for path in (toybench / "tasks").glob("*.json"))[:6]
    for name in names:
        (folder / "tasks").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(toybench / f"tasks/{name}.json", folder / f"tasks/{name}.json")
    lists = {"train": names[:5], "dev": names[4:], "test": names[4:]}
    for split, of_split in lists.items():
        path = folder / f"splits/default/{split}_tasks.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in of_split))
    return folder


@pytest.fixture
def start(make_datamodule: Make, data: Path, tmp_path: Path) -> Callable[..., InstructionTuningDataModule]:
    """Starts a run as another process would, with objects of its own."""

    def start(benchmark: Benchmark | None = None, **arguments: Any) -> InstructionTuningDataModule:
        benchmark = NaturalInstructions(str(data)) if benchmark is None else benchmark
        run = make_datamodule(benchmark=benchmark, cache=str(tmp_path / "store"), **arguments)
        run.prepare_data()
        run.setup("fit")
        return run

    return start


def add_instance(path: Path) -> None:
    task = json.loads(path.read_text())
    task["Instances"].append({"id": "new", "input": "a new one", "output": ["new"]})
    path.write_text(json.dumps(task))


def test_a_prepared_run_starts_without_its_data_files(start: Any, data: Path, tmp_path: Path) -> None:
    first = start(evaluation={"shots": [0, 2], "max_new_tokens": 8})
    data.rename(tmp_path / "elsewhere")
    again = start(evaluation={"shots": [0, 2], "max_new_tokens": 8})
    assert (again.prepared.written, again.prepared.reused) == (0, 5)
    assert again.training_fingerprint() == first.training_fingerprint()
    assert again.split_lines() == first.split_lines()
    assert again.task_names() == first.task_names()
    assert list(map(again.task, again.task_names()["validation"])) == [
        first.task(name) for name in first.task_names()["validation"]
    ]
    assert again.evaluation_examples("validation") == first.evaluation_examples("validation")
    assert again.evaluation_fingerprint("validation") == first.evaluation_fingerprint("validation")
    with pytest.raises(ValueError, match="no folder"):
        start(instances={"validation": 2, "test": 4})  # other instances train: they were not prepared


def test_a_changed_file_is_prepared_again(start: Any, data: Path) -> None:
    first = start()
    path = sorted((data / "tasks").iterdir())[0]
    add_instance(path)
    again = start()
    assert (again.prepared.written, again.prepared.reused) == (1, 4)
    assert again.training_fingerprint() != first.training_fingerprint()


@pytest.mark.parametrize("folder", ["starts", "evaluations"])
def test_a_damaged_file_is_named_and_written_again(start: Any, folder: str, tmp_path: Path) -> None:
    first = start()
    (path,) = (tmp_path / "store" / folder).iterdir()
    intact = path.read_bytes()
    path.write_bytes(intact.replace(b"task", b"tusk", 1))
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged; reading the data files again"):
        again = start()
    assert path.read_bytes() == intact
    assert again.evaluation_examples("validation") == first.evaluation_examples("validation")


def test_a_changed_validation_file_is_read_again(start: Any, data: Path) -> None:
    first = start()
    path = sorted((data / "tasks").iterdir())[5]
    path.write_text(json.dumps({**json.loads(path.read_text()), "Definition": ["Do as the others."]}))
    again = start()
    assert again.prepared.written == 0  # it does not train
    changed = [
        [example.source for example in run.evaluation_examples("validation") if "Do as the others." in example.source]
        for run in (first, again)
    ]
    assert list(map(len, changed)) == [0, 2]


def test_a_collection_that_arrives_later_trains(start: Any, data: Path, tmp_path: Path) -> None:
    def bench() -> Bench:
        collections = {"mine": NaturalInstructions(str(data)), "crossfit": CrossFit(str(tmp_path / "crossfit"))}
        return Bench(collections, partial=True)

    assert any("crossfit/*" in line for line in start(bench()).split_lines())
    path = tmp_path / "crossfit/blimp-ellipsis_n_bar_1/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f'{{"inputs": "{n}", "targets": "sentence {n % 2 + 1}"}}\n' for n in range(20)))
    assert "crossfit/blimp-ellipsis_n_bar_1" in start(bench()).task_names()["train"]


def test_a_relative_path_is_of_the_folder_that_a_run_starts_in(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the first folder are unchanged, and are not those of the second one."""
    trained = []
    for folder in ("first", "second", "first"):
        path = tmp_path / folder / "documents.jsonl"
        if not path.exists():
            path.parent.mkdir()
            path.write_text("".join(json.dumps({"text": f"{folder} {number}"}) + "\n" for number in range(9)))
        monkeypatch.chdir(path.parent)
        run = start(PretrainingText({"texts": "documents.jsonl"}), instances={"validation": 0, "test": 0})
        trained.append((run.prepared.written, run.training_fingerprint()))
    assert [written for written, _ in trained] == [1, 1, 0]
    assert trained[0][1] == trained[2][1] != trained[1][1]


def test_changed_templates_are_rendered_again(start: Any, tmp_path: Path) -> None:
    rows, templates = tmp_path / "flan/rte.jsonl", tmp_path / "flan/templates.json"
    rows.parent.mkdir()
    rows.write_text("".join(f'{{"text": "{n} cats", "answer": "{n}"}}\n' for n in range(20)))
    patterns = {"mine": [["{text}: how many?", "{answer}"]]}
    templates.write_text(json.dumps(patterns))

    def flan() -> FLAN:
        return FLAN(str(templates), {"mine": FlanRows(str(rows))})

    assert [start(flan()).prepared.written for _ in range(2)] == [1, 0]
    templates.write_text(json.dumps({"mine": [["{text}. How many?", "{answer}"]]}))
    assert start(flan()).prepared.written == 1


def cached_dataset(name: str, rows: list[dict[str, str]], cache: Path) -> None:
    """Put a dataset into a cache of `datasets`, as if it had been loaded from the hub."""
    path = cache.parent / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.load_dataset("json", data_files=str(path), cache_dir=str(cache.parent / "local"))
    (local,) = (folder for folder in (cache.parent / "local/json").glob("*/*/*") if folder.is_dir())
    folder = cache / f"owner___{name}/default/0.0.0" / local.name
    shutil.copytree(local, folder)
    (folder / "json-train.arrow").rename(folder / f"{name}-train.arrow")
    about = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**about, "dataset_name": name}))


def test_a_dataset_of_the_hub_is_not_looked_up_again(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prepared run starts without the hub and without its cache; another one needs them."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    cached_dataset("tiny", [{"input": f"copy {number}", "output": f"{number} cats"} for number in range(40)], cache)
    first = start(FileTasks("owner/tiny"))
    shutil.rmtree(cache)
    again = start(FileTasks("owner/tiny"))
    assert (again.prepared.written, again.prepared.reused) == (0, 1)
    assert again.training_fingerprint() == first.training_fingerprint()
    assert again.evaluation_examples("validation") == first.evaluation_examples("validation")
    with pytest.raises(ValueError, match="owner/tiny, cannot be opened"):
        start(FileTasks("owner/tiny"), seed=3)


def test_arguments_are_equal_if_their_values_are(data: Path) -> None:
    def states(splits: str) -> set[str | None]:
        return {declared_state(NaturalInstructions(str(data), splits)) for _ in range(2)}

    (one,), (other,) = states("splits/default"), states("splits/others")
    assert one != other
    assert None not in (one, other)

    class Held(NaturalInstructions):
        def __init__(self) -> None:
            super().__init__(str(data))
            self.file = (data / "splits/default/train_tasks.txt").open()

    held = Held()
    assert declared_state(held) is None
    held.file.close()


def test_files_beside_the_data_do_not_matter(data: Path) -> None:
    """Editors and shells make and remove files in the folders above the data; a new file of data is noticed."""
    path = sorted((data / "tasks").iterdir())[0]
    stamped = path_stamps([str(path)], store=data / "store")
    assert {Path(name) for name in stamped} == {path, path.parent, data}
    assert is_current(stamped)
    (data / ".swap").touch()
    (data / "tasks/draft").touch()
    (data / "tasks/draft").unlink()
    assert is_current(stamped)
    (data / "tasks/task9.json").touch()
    assert not is_current(stamped)
