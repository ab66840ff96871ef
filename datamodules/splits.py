"""Which instances of a task train, validate and test, and how far a task lies from training."""

import hashlib
import random
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def choose_prompts(
    task: str,
    rows: NDArray[np.int64],
    *,
    trained: bool,
    validation: int,
    test: int,
    limit: int | None = None,
    validation_prompts: int | None = None,
    every_prompt: bool = False,
    seed: int = 0,
) -> Instances:
    """Deal the prompts of a task of which several may show one row, each by another template.

    Rows are dealt as ``choose_instances`` does, so that no row is trained by one template and tested by another. Of the
    prompts of N training rows N are drawn, whichever rows and templates they show, so that templates do not make a task
    larger (OPT-IML, section 4.1); at most `validation_prompts` of the validation rows' prompts are kept; all prompts
    of the test rows are.

    Args:
        task: Name, which makes the choice the task's own.
        rows: int64 [prompts], the row that each prompt shows.
        trained: As in ``choose_instances``, and so are `validation`, `test`, `limit` and `seed`, in rows.
        validation: Rows to hold out for validation.
        test: Rows to test.
        limit: Most training rows; most training prompts where `every_prompt`.
        validation_prompts: Most prompts for validation, or None for all.
        every_prompt: Train on every prompt of the training rows instead, as T0's mixture and Cappy's pretraining do.
        seed: Another seed is another choice.
    """
    numbers, first, row_of = np.unique(rows, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[row_of]  # rows by their first prompt: file order
    dealt = choose_instances(
        task,
        len(numbers),
        trained=trained,
        validation=validation,
        test=test,
        limit=None if every_prompt else limit,
        seed=seed,
    )
    if len(numbers) == len(rows):
        # One prompt a row: the places are the rows' own, in the order they were dealt in.
        return dealt._replace(train=dealt.train[:limit], validation=dealt.validation[:validation_prompts])
    pools = [np.flatnonzero(np.isin(place, part)) for part in dealt]
    train = _drawn(pools[0], limit if every_prompt else len(dealt.train), task, "train", seed)
    return Instances(train, _drawn(pools[1], validation_prompts, task, "validation", seed), pools[2].tolist())


def _drawn(pool: NDArray[np.int64], number: int | None, task: str, split: str, seed: int) -> list[int]:
    if number is None or number >= len(pool):
        return pool.tolist()
    digest = hashlib.sha256(repr((seed, "prompts", split, task)).encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return np.sort(generator.permutation(pool)[:number]).tolist()


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
