"""What one table of a paper evaluates: the tasks it lists, of which some are at hand, and none trains.

::

    collections:                                  # readers, as in a Bench
      opt: {class_path: OptEvaluation, init_args: {folder: data}}
    expected:                                     # the table, column by column; a number of instances, or null
      - {column: Natural language inference, level: fully_held_out, tasks: {opt/cb: 56, opt/rte: 277}}
    stated_by: OPT-IML (arXiv 2212.12017), table 9

A task whose files are not there is listed as missing, with the reason; anything else that is wrong stops the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ..messages import NotAtHand, nearest, some
from ..schema import Example, Level, Metric, Task
from .benchmark import Benchmark, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class ExpectedColumn:
    """A column of a table.

    Args:
        column: What the table calls it; it takes the place of its tasks' category.
        tasks: Instances of each task, called ``collection/task``; null where the paper states none.
        level: How far the tasks lie from what the paper trained on; nothing trains here, so it cannot be computed.
        metric: What scores them, where it is not what their readers say.
    """

    column: str
    tasks: dict[str, int | None]
    level: Level = "fully_held_out"
    metric: Metric | None = None


class Suite(Benchmark):
    """The evaluation tasks of a table; there is nothing to train.

    Args:
        collections: Readers by the name that stands before their tasks' names.
        expected: The table's columns with their tasks, whether they are at hand or not.
        stated_by: Where the tasks and numbers are stated.
        demonstrations: Readers of examples to show, by the collection whose tasks they are for: the training split of
            the same files. Without one, what upstream publishes is shown, or instances that are then not asked.
    """

    name = "suite"

    def __init__(
        self,
        collections: dict[str, Benchmark],
        expected: list[ExpectedColumn],
        stated_by: str,
        demonstrations: dict[str, Benchmark] | None = None,
    ) -> None:
        self.collections, self.stated_by = dict(collections), stated_by
        self.shown = dict(demonstrations or {})
        if stray := [name for name in self.shown if name not in self.collections]:
            raise ValueError(
                f"demonstrations are for {stray[0]!r}, which is no collection; {nearest(stray[0], self.collections)}"
            )
        self.expected: dict[str, ExpectedColumn] = {}
        for column in expected:
            for name in column.tasks:
                if name.partition("/")[0] not in self.collections or "/" not in name:
                    raise ValueError(
                        f"{column.column} lists {name!r}: expected collection/task, of {some(list(collections))}"
                    )
                if name in self.expected:
                    raise ValueError(f"{name!r} stands in {self.expected[name].column!r} and in {column.column!r}")
                self.expected[name] = column

    def task_names(self, split: Split) -> list[str]:
        """The listed tasks that are at hand."""
        if split != "test":
            return []
        found = [name for name in self.expected if name not in self.missing]
        if not found:
            reason = next(iter(self.missing.values()), "none is listed")
            raise ValueError(f"none of the {len(self.expected)} tasks of {self.stated_by} is at hand: {reason}")
        return found

    def task(self, name: str) -> Task:
        """What its reader knows of a task, in the table's column and at its level."""
        collection, inner = self._inner(name)
        column, task = self.expected[name], collection.task(inner)
        return replace(
            task,
            benchmark=name.partition("/")[0],
            name=name,
            category=column.column,
            level=column.level,
            metric=column.metric or task.metric,
        )

    def examples(self, name: str) -> Iterator[Example]:
        """All instances of a task, as its collection reads them."""
        collection, inner = self._inner(name)
        return (replace(example, task=name) for example in collection.examples(inner))

    def solved_examples(self, name: str) -> list[Example] | None:
        """Those of the reader of demonstrations; None where none is given, or it does not have the task."""
        collection, _, inner = name.partition("/")
        reader = self.shown.get(collection)
        if reader is None:
            return None
        try:
            if not any(inner in reader.task_names(split) for split in SPLITS):
                return None
            solved = list(reader.examples(inner))
        except NotAtHand:
            return None
        # Another file's rows: their numbers say nothing of those that are asked.
        return [replace(example, task=name, index=-1 - example.index) for example in solved]

    def fingerprint(self, name: str) -> str:
        collection, inner = self._inner(name)
        return collection.fingerprint(inner)

    @cached_property
    def missing(self) -> dict[str, str]:
        """Why each listed task that is not at hand is not."""
        found = {}
        for name in self.expected:
            try:
                next(self.examples(name), None)
            except NotAtHand as error:
                found[name] = str(error)
        return found

    def _inner(self, name: str) -> tuple[Benchmark, str]:
        if name not in self.expected:
            raise ValueError(
                f"no task {name!r} among the {len(self.expected)} expected; {nearest(name, self.expected)}"
            )
        collection, _, inner = name.partition("/")
        return self.collections[collection], inner
