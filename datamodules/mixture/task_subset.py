"""Subsets of the training tasks, to study how generalization grows with the number of tasks."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..schema import Task
from ..splits import shares_data


@dataclass(frozen=True)
class TaskSubset:
    """Size of a subset of the training tasks (arXiv 2212.12017, Figures 2 and 3). Set either `tasks` or `categories`.

    A smaller subset is contained in a larger one. Tasks whose data is also evaluated are in every subset, or their
    categories are, so that tasks which are evaluated as fully supervised remain so. Levels of generalization are those
    of all training tasks, whatever the subset, so that runs with different subsets are compared on the same tasks.
    Benchmarks in ``mixture.extra`` always train, and are not counted.

    Args:
        tasks: Number of tasks, in a random order.
        categories: Number of categories, those with the most tasks first.
        seed: Seed of the tasks' order.
    """

    tasks: int | None = None
    categories: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.tasks is None) == (self.categories is None):
            raise ValueError("mixture.subset needs either tasks or categories, the number of those that train")
        for name, number in (("tasks", self.tasks), ("categories", self.categories)):
            if number is not None and number < 1:
                raise ValueError(f"mixture.subset.{name} must be at least 1, got {number}")


def subset_of(
    subset: TaskSubset, tasks: Sequence[Task], evaluated: Sequence[Task], extra: Collection[str]
) -> list[str]:
    """Choose which training tasks a run with a subset trains, and return their names in the order of `tasks`.

    Args:
        subset: Size of the subset.
        tasks: All training tasks.
        evaluated: The validation and test tasks.
        extra: Benchmarks in ``mixture.extra``, whose tasks always train and are not counted.

    Raises:
        ValueError: The subset is larger than the number of tasks or categories, or too small for those that are
            evaluated, too.
    """
    counted = [task for task in tasks if task.benchmark not in extra]
    supervised = [task for task in counted if shares_data(task, evaluated)]
    if subset.tasks is not None:
        names = [task.name for task in counted]
        kept = _first_tasks(subset.tasks, [task.name for task in supervised], names, subset.seed)
    else:
        assert subset.categories is not None
        first = list(dict.fromkeys(task.category for task in supervised))
        categories = _first_categories(subset.categories, first, [task.category for task in counted])
        kept = {task.name for task in counted if task.category in categories}
    return [task.name for task in tasks if task.name in kept or task.benchmark in extra]


def _first_tasks(number: int, supervised: Sequence[str], names: Sequence[str], seed: int) -> set[str]:
    """Return `number` tasks: the supervised ones, then others in the order of digests of their names."""
    if number > len(names):
        raise ValueError(f"mixture.subset.tasks is {number}, but {len(names)} tasks train")
    if number < len(supervised):
        raise ValueError(
            f"mixture.subset.tasks is {number}, but {len(supervised)} of the training tasks are evaluated, too, and "
            f"are in every subset: set at least {len(supervised)}"
        )
    others = set(names) - set(supervised)
    ordered = sorted(others, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return {*supervised, *ordered[: number - len(supervised)]}


def _first_categories(number: int, supervised: Sequence[str], categories: Sequence[str]) -> set[str]:
    """Return `number` categories: the supervised ones, then others by falling number of tasks, ties by name."""
    counts = Counter(categories)
    if not len(supervised) <= number <= len(counts):
        raise ValueError(
            f"mixture.subset.categories is {number}, expected {max(len(supervised), 1)} (those with evaluated tasks) "
            f"to {len(counts)} (those of the training tasks)"
        )
    others = sorted(set(counts) - set(supervised), key=lambda name: (-counts[name], name))
    return {*supervised, *others[: number - len(supervised)]}
