"""Which instances of a task train, validate and test, and how far a task lies from training."""

import hashlib
import random
from collections.abc import Collection
from typing import NamedTuple

from .schema import Level, Task


class Instances(NamedTuple):
    """Places in a task's file, disjoint."""

    train: list[int]
    validation: list[int]
    test: list[int]


def choose_instances(
    task: str,
    total: int,
    *,
    trained: bool,
    validation: int,
    test: int,
    limit: int | None = None,
    seed: int = 0,
) -> Instances:
    """Deal the instances of a task.

    Test takes the first `test` in file order: Super-NaturalInstructions orders its test files so that the first 100
    are balanced over labels, and published scores are on them. The rest is shuffled by (seed, task), because
    training files may be sorted by label; validation takes its share first, and training at most `limit` of what is
    left. A task that is both trained and tested is thereby tested on instances that were never trained.

    Args:
        task: Name, which makes the shuffle the task's own.
        total: Instances in the file.
        trained: Whether the task is in the training split.
        validation: Instances to hold out for validation, 0 if the task is not validated.
        test: Instances to test, 0 if the task is not tested.
        limit: Most training instances, or None for all.
        seed: Another seed is another choice.
    """
    tested = list(range(min(test, total)))
    rest = list(range(len(tested), total))
    digest = hashlib.sha256(repr((seed, "instances", task)).encode()).digest()
    random.Random(digest).shuffle(rest)
    validated, rest = rest[:validation], rest[validation:]
    return Instances(rest[:limit] if trained else [], validated, tested)


def generalization_level(task: Task, trained_tasks: Collection[str], trained_categories: Collection[str]) -> Level:
    """How far a task lies from training (OPT-IML, section 2.3), computed from what is really trained.

    Args:
        task: The evaluated task.
        trained_tasks: Names of all training tasks.
        trained_categories: Categories of all training tasks.
    """
    if task.name in trained_tasks:
        return "fully_supervised"
    return "partially_supervised" if task.category in trained_categories else "fully_held_out"
