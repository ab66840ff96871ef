"""Paths as users write them: as text or ``Path``, with ``~`` and environment variables, wherever files are named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crosstask.datamodules import Bench, Suite
from crosstask.datamodules.benchmarks import Benchmark, FileTasks
from crosstask.datamodules.benchmarks.suite import ExpectedColumn
from crosstask.datamodules.hub_names import hub_source
from crosstask.datamodules.messages import expanded
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.samples import ModelSamples

READERS: dict[str, Callable[[str | Path], Benchmark]] = {
    "FileTasks": FileTasks,
    "Bench": lambda path: Bench({"mine": path}),
    "Suite": lambda path: Suite({"mine": path}, [ExpectedColumn("all", {"mine/rows": 1})], "a table"),
    "SampledExamples": lambda path: SampledExamples(path).reader,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input": "a", "output": "b"}) + "\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", ["~/rows.jsonl", "$MY_DATA/rows.jsonl", Path("~/rows.jsonl"), Path("rows.jsonl")])
@pytest.mark.parametrize("kind", list(READERS))
def test_a_path_is_read_wherever_a_benchmark_is_named(
    kind: str, path: str | Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    reader = READERS[kind](path)
    (name,) = reader.task_names("test")
    assert [example.targets for example in reader.examples(name)] == [("b",)]


def test_models_and_files_of_samples_are_found_by_the_same_rule(home: Path) -> None:
    assert hub_source("~/rows.jsonl") == hub_source(Path("$MY_DATA/rows.jsonl")) == (str(home / "rows.jsonl"), {})
    assert hub_source("owner/name@main") == ("owner/name", {"revision": "main"})
    assert ModelSamples(["~/rows.jsonl"]).files == ModelSamples([home / "rows.jsonl"]).files
    with pytest.raises(ValueError, match=r"the environment variable NOWHERE in .\$NOWHERE/a. is not set"):
        expanded(Path("$NOWHERE/a"))


def test_an_unset_data_folder_is_answered_with_the_command_that_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSTASK_DATA", raising=False)
    with pytest.raises(ValueError, match="CROSSTASK_DATA=/path/to/the/data`, which `crosstask download` fills"):
        expanded("$CROSSTASK_DATA/superni")
