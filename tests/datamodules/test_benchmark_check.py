"""Checking a benchmark: every example is counted once, skipped ones by reason, errors stop nothing but their task."""

from collections.abc import Iterator

import pytest

from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.inspection.benchmark_check import check_benchmark
from crosstask.datamodules.schema import Example, Task


class Lists(Benchmark):
    """Tasks from lists of inputs, e.g. ``{"train/a": ["x", "y"]}``; an input of "!" is an error of its file."""

    name = "lists"

    def __init__(self, inputs: dict[str, list[str]]) -> None:
        self.inputs = inputs

    def task_names(self, split: Split) -> list[str]:
        return [name for name in self.inputs if split in name.split("/")[0].split("+")]

    def task(self, name: str) -> Task:
        return Task("lists", name, category=name, definition="Do.")

    def examples(self, name: str) -> Iterator[Example]:
        for index, text in enumerate(self.inputs[name]):
            if text == "!":
                raise ValueError(f"{name}.jsonl, line {index + 1}: not valid JSON")
            skipped = "the template does not apply" if text == "?" else ""
            yield Example(name, f"{name}-{index}", index, text, ("answer",), skipped=skipped)

    def unread_lines(self) -> list[str]:
        return ["1 data file not read in mine: 1 dev/*.jsonl"]

    def fingerprint(self, name: str) -> str:
        return name


MANY = [f"input {number}" for number in range(12)]


def test_what_is_skipped_repeated_and_shared_is_counted_with_its_first_place() -> None:
    inputs = {"train/a": [*MANY, " ", "?", "?", "input  3"], "train/few": ["x"], "test/b": [*MANY[:2], *MANY, "own"]}
    inputs["train+test/both"] = [f"both {number}" for number in range(20)]
    check = check_benchmark(Lists(inputs))
    assert check.errors == []
    lines = check.lines()
    assert lines[0] == "4 tasks (3 train, 2 test); 49 examples can be used"
    assert "1 data file not read in mine: 1 dev/*.jsonl" in lines
    assert "skipped: 2 of 16 in train/a, the template does not apply, first: row 14" in lines
    assert "skipped: 1 of 16 in train/a, empty input, first: row 13" in lines
    assert "fewer than 10 usable examples: train/few (1)" in lines
    repeated = "repeated inputs: 3 examples with the input of another example of test/b, train/a"
    assert any(line.startswith(repeated) for line in lines)
    (duplicates,) = check.duplicates
    assert (duplicates.task, duplicates.trained, duplicates.count) == ("test/b", ("train/a",), 14)


def test_an_error_ends_its_task_alone() -> None:
    check = check_benchmark(Lists({"train/a": ["x", "!", "y"], "train/b": MANY}))
    assert check.errors == ["train/a.jsonl, line 2: not valid JSON"]
    assert check.lines()[-1] == "error: train/a.jsonl, line 2: not valid JSON"
    assert [task.usable for task in check.tasks] == [1, 12]


@pytest.mark.parametrize("inputs", [{}, {"test/a": MANY}, {"train/a": ["?"]}])
def test_a_benchmark_that_trains_nothing_is_an_error(inputs: dict[str, list[str]]) -> None:
    assert check_benchmark(Lists(inputs)).errors == ["no task has an example that can be trained on"]
