"""Subsets of the training tasks: nested, with the evaluated tasks always in, and extra streams not counted."""

from itertools import pairwise

import pytest

from crosstask.datamodules.mixture.task_subset import TaskSubset, subset_of
from crosstask.datamodules.schema import Task

TASKS = [
    *(Task("sni", f"sni/qa{n}", "Question Answering") for n in range(3)),
    *(Task("sni", f"sni/sum{n}", "Summarization") for n in range(5)),
    *(Task("flan", f"flan/qa{n}", "Question Answering", dataset=f"d{n}") for n in range(3)),
    Task("sni", "sni/poem", "Poem Generation"),
    Task("pretraining", "pretraining/text", "Pre-training"),
]
EVALUATED = [Task("official", "official/d1", "Question Answering", dataset="d1"), TASKS[0], Task("sni", "sni/x", "X")]
EXTRA = ["pretraining"]


def names(**subset: object) -> list[str]:
    return subset_of(TaskSubset(**subset), TASKS, EVALUATED, EXTRA)  # type: ignore[arg-type]


def test_smaller_subsets_are_parts_of_larger_ones_and_hold_every_evaluated_task() -> None:
    subsets = [names(tasks=number) for number in range(2, 13)]
    # Two tasks share their data with an evaluated one; the extra stream trains beside the counted tasks.
    assert subsets[0] == ["sni/qa0", "flan/qa1", "pretraining/text"]
    for smaller, larger in pairwise(subsets):
        assert set(smaller) < set(larger)
        assert len(larger) == len(smaller) + 1
    assert subsets[-1] == [task.name for task in TASKS]  # all, in their order
    assert names(tasks=6) != names(tasks=6, seed=1)


def test_categories_are_taken_by_falling_number_of_tasks_behind_those_that_are_evaluated() -> None:
    answering = [task.name for task in TASKS if task.category == "Question Answering"]
    assert names(categories=1) == [*answering, "pretraining/text"]
    assert set(names(categories=2)) == {*answering, *(f"sni/sum{n}" for n in range(5)), "pretraining/text"}
    poems = [Task("sni", "sni/poem", "Poem Generation")]
    kept = subset_of(TaskSubset(categories=2), TASKS, poems, EXTRA)
    assert set(kept) == {*answering, "sni/poem", "pretraining/text"}  # 6 tasks, summarization has 5


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"tasks": 1}, "2 of the training tasks are evaluated, too"),
        ({"tasks": 13}, "subset.tasks is 13, but 12 tasks train"),
        ({"categories": 4}, r"subset.categories is 4, expected 1 \(those with evaluated tasks\) to 3"),
        ({"tasks": 0}, "subset.tasks must be at least 1"),
        ({"tasks": 2, "categories": 1}, "either tasks or categories"),
        ({}, "either tasks or categories"),
    ],
)
def test_a_subset_that_cannot_be_chosen_is_rejected_with_the_way_out(subset: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names(**subset)
