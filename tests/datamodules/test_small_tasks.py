"""A user's small tasks: what they hold out, and how many instances of each collection do."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.benchmarks import FileTasks
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.splits import Instances, choose_instances

Make = Callable[..., InstructionTuningDataModule]

DEFAULTS = {"validation": 10, "test": 100}


@pytest.mark.parametrize(
    ("total", "train", "validation", "test"),
    [(1, 1, 0, 0), (4, 4, 0, 0), (5, 3, 1, 1), (20, 12, 4, 4), (200, 150, 10, 40), (500, 390, 10, 100)],
)
def test_a_training_task_holds_out_a_fifth_at_most(total: int, train: int, validation: int, test: int) -> None:
    chosen = choose_instances("t", total, trained=True, validation=10, test=100, held_out_share=0.2)
    assert [len(part) for part in chosen[:3]] == [train, validation, test]
    assert bool(chosen.reduced) == (total < 500)


def test_a_task_that_only_evaluates_is_not_reduced() -> None:
    chosen = choose_instances("t", 110, trained=False, validation=0, test=100, held_out_share=0.2)
    assert (chosen.test, chosen.reduced) == (list(range(100)), "")


@pytest.fixture
def mine(tmp_path: Path) -> FileTasks:
    """Own tasks: one of 20 examples in train and test, one that trains, one that is tested."""
    for split, name in (("train", "sounds"), ("test", "sounds"), ("train", "rhymes"), ("test", "secret")):
        path = tmp_path / "mine" / split / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"input": f"What is {name} {i}?", "output": f"It is {i}."} for i in range(20)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileTasks(str(tmp_path / "mine"))


def test_a_task_of_twenty_examples_trains_and_is_tested(
    mine: FileTasks, make_datamodule: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_datamodule(benchmark=Bench({"mine": mine}), instances=DEFAULTS)
    data.prepare_data()
    with caplog.at_level(logging.INFO):
        data.setup("fit")
        data.setup("test")
    assert data.plan is not None
    assert dict(zip(data.plan.mixture.names, data.plan.mixture.sizes, strict=True)) == {
        "mine/rhymes": 16, "mine/sounds": 12
    }  # fmt: skip
    tested = [example.task for example in data.evaluation_examples("test")]
    assert {name: tested.count(name) for name in tested} == {"mine/secret": 20, "mine/sounds": 4}
    assert {example.task: example.level for example in data.evaluation_examples("test")} == {
        "mine/secret": "fully_held_out", "mine/sounds": "fully_supervised"
    }  # fmt: skip
    assert "2 small training tasks with fewer held-out instances than data.init_args.instances sets" in caplog.text
    assert "mine/sounds (4 for test and 4 for validation of 20)" in caplog.text
    assert "are not read" not in caplog.text  # the file of a task in train and test is read


def test_a_file_that_is_too_small_to_validate_on_says_so(tmp_path: Path, make_datamodule: Make) -> None:
    (tmp_path / "three.jsonl").write_text('{"input": "a", "output": "b"}\n' * 3)
    small = make_datamodule(benchmark=str(tmp_path / "three.jsonl"), instances=DEFAULTS)
    small.prepare_data()
    with pytest.raises(ValueError, match=r"three \(0 for test and 0 for validation of 3\).* needs 5 of them") as error:
        small.setup("fit")
    assert "set data.init_args.instances.validation to 0" in str(error.value)
    without = make_datamodule(benchmark=str(tmp_path / "three.jsonl"), instances={"validation": 0})
    without.prepare_data()
    without.setup("fit")


def test_collections_hold_out_their_own_numbers(mine: FileTasks, make_datamodule: Make) -> None:
    counts: dict[str, Any] = {"test": 9, "validation": 0, "test_of": {"mine": 2}, "validation_of": {"mine": 1}}
    data = make_datamodule(benchmark=Bench({"mine": mine, "yours": mine}), instances=counts)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    tested = [example.task for example in data.evaluation_examples("test")]
    assert {name: tested.count(name) for name in tested} == {
        "mine/secret": 2, "mine/sounds": 2, "yours/secret": 9, "yours/sounds": 4
    }  # fmt: skip
    validated = [example.task for example in data.evaluation_examples("validation")]
    assert sorted(validated) == ["mine/rhymes", "mine/sounds"]


def test_counts_that_no_task_can_have_are_rejected(mine: FileTasks, make_datamodule: Make) -> None:
    data = make_datamodule(benchmark=Bench({"mine": mine}), instances={"test_of": {"mien": 2}})
    with pytest.raises(ValueError, match=r"data.init_args.instances.test_of names 'mien', .*; nearest: mine"):
        data.prepare_data()
    with pytest.raises(ValueError, match=r"data.init_args.instances.validation_of.mine must be at least 0, got -1"):
        Instances(validation_of={"mine": -1})
    with pytest.raises(ValueError, match=r"data.init_args.instances.held_out_share must be above 0 and below 0.5"):
        Instances(held_out_share=0.5)
    data = make_datamodule(benchmark=Bench({"mine": mine}), instances={**DEFAULTS, "held_out_share": None})
    data.prepare_data()
    with pytest.raises(ValueError, match=r"hold out fewer \(data.init_args.instances.test and .validation"):
        data.setup("fit")


def test_a_file_without_a_usable_example_names_the_reason(tmp_path: Path, make_datamodule: Make) -> None:
    (tmp_path / "blank.jsonl").write_text('{"input": "a", "output": ""}\n' * 3)
    blank = make_datamodule(benchmark=str(tmp_path / "blank.jsonl"), instances=DEFAULTS)
    blank.prepare_data()
    with pytest.raises(ValueError, match=r"no training task has an example that could train: blank \(\w.+\)$"):
        blank.setup("fit")


def test_a_benchmark_without_test_tasks_is_not_told_to_raise_their_instances(
    tmp_path: Path, make_datamodule: Any
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/few.jsonl").write_text("".join(f'{{"input": "{i}", "output": "{i}"}}\n' for i in range(20)))
    with pytest.raises(ValueError, match=r"^the benchmark lists no task in the split test: list one there, or"):
        make_datamodule(benchmark=str(tmp_path)).setup("test")
