"""Training instances of a level (inner or outer tasks), and the order in which they are drawn."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..rendering.skipped_examples import skip_reason
from ..splits import EVALUATED, OPTION
from ..storage.preparation import Preparation
from .bilevel_report import TaskInstances


class Instance(NamedTuple):
    """Training instance as a pair of indices: of its task, and of its example in this task.

    Args:
        task: Index of the task among the inner tasks (which train the model), or among the outer tasks (which train the
            instructions).
        example: Index of the example among the task's training instances.
    """

    task: int
    example: int


def instances_of(tasks: Sequence[TaskInstances]) -> list[Instance]:
    """Return the indices of all instances of the inner, or of the outer tasks, task after task."""
    return [Instance(task, index) for task, (_, examples) in enumerate(tasks) for index in range(len(examples))]


def read_instances(
    preparation: Preparation, names: Sequence[str], *, validated: bool, tested: Sequence[str]
) -> tuple[list[TaskInstances], Counter[str]]:
    """Return the training instances of tasks, and the number of skipped instances by reason.

    Args:
        preparation: Settings of the choice of instances.
        names: Names of the training tasks.
        validated: Whether instances of the tasks are held out for validation.
        tested: Names of the test tasks; instances of those are held out for test.

    Raises:
        ValueError: A task has no training instances, or is pre-training text with an objective.
    """
    tasks, skipped = [], Counter[str]()
    for name in names:
        if preparation.benchmark.objective(name) is not None:
            raise ValueError(
                f"training task {name!r} is pre-training text with an objective, which has no instruction: pretrain "
                "the model on it first, as configs/t5_small_pretraining does"
            )
        task, examples = preparation.benchmark.task(name), list(preparation.benchmark.examples(name))
        chosen = preparation.split_instances(name, examples, trained=True, validated=validated, tested=name in tested)
        reasons = [skip_reason(task, examples[place]) for place in chosen.train]
        trained = [examples[place] for place, reason in zip(chosen.train, reasons, strict=True) if reason is None]
        skipped.update(reason for reason in reasons if reason is not None)
        skipped.update([EVALUATED] * len(chosen.repeated))
        if not trained:
            raise ValueError(
                f"training task {name!r} has no training instances left of its {len(examples)}: the usable ones are "
                f"held out; hold out fewer ({OPTION}), or remove it from the training list"
            )
        tasks.append(TaskInstances(task, trained))
    return tasks, skipped


class ShuffledEpochs:
    """Endless sequence of epochs over `size` items, each in another random order, with access to any position.

    Args:
        size: Number of items.
        seed: Seed of the orders.
        name: Name of the sequence; sequences of different names have different orders.

    >>> order = ShuffledEpochs(3, seed=0, name="inner")
    >>> sorted(order.at(position)[0] for position in range(3, 6)), order.at(4)[1]
    ([0, 1, 2], 1)
    """

    def __init__(self, size: int, *, seed: int, name: str) -> None:
        self.size, self.key = size, [seed, *name.encode()]
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def at(self, position: int) -> tuple[int, int]:
        """Return (index of the item, index of the epoch) at a position of the sequence."""
        epoch, index = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([*self.key, epoch]).permutation(self.size)
        return int(self._order[index]), epoch
