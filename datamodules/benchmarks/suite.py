"""The evaluation tasks of one table of a paper, as far as their files exist; no task trains.

::

    collections:                                  # readers, as in a Bench
      opt: {class_path: OptEvaluation, init_args: {folder: data}}
    expected:                                     # the table by columns; a number of instances, or null
      - {column: Natural language inference, level: fully_held_out, tasks: {opt/cb: 56, opt/rte: 277}}
    stated_by: OPT-IML (arXiv 2212.12017), table 9

A task whose files are missing is reported as missing, with the reason; any other error stops the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ..messages import MissingFiles, nearest, some
from ..schema import Example, Level, Metric, Task
from .benchmark import Benchmark, Split
from .file_tasks import as_benchmark

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class ExpectedColumn:
    """A column of a table.

    Args:
        column: Name of the column in the table; replaces the category of its tasks.
        tasks: Number of instances by task, ``collection/task``; null where the paper states none.
        level: Generalization level of the tasks in the paper; it cannot be computed, since no task trains here.
        metric: Metric of the tasks; by default that of their readers.
    """

    column: str
    tasks: dict[str, int | None]
    level: Level = "fully_held_out"
    metric: Metric | None = None


class Suite(Benchmark):
    """The evaluation tasks of a table, without training tasks.

    Args:
        collections: Readers, or paths of your own files, by name; the name is the first part of their tasks' names.
        expected: The table's columns with their tasks, including missing ones.
        stated_by: Source of the list of tasks and the numbers of instances.
        demonstrations: Readers of demonstrations by collection, e.g. of the training split of the same files. A
            collection without one uses published demonstrations, or instances that are then not evaluated.
    """

    name = "suite"

    def __init__(
        self,
        collections: dict[str, Benchmark | str],
        expected: list[ExpectedColumn],
        stated_by: str,
        demonstrations: dict[str, Benchmark | str] | None = None,
    ) -> None:
        self.stated_by = stated_by
        self.collections = {name: as_benchmark(collection) for name, collection in collections.items()}
        self.demonstration_readers = {name: as_benchmark(reader) for name, reader in (demonstrations or {}).items()}
        if stray := [name for name in self.demonstration_readers if name not in self.collections]:
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
                    raise ValueError(f"{name!r} is in {self.expected[name].column!r} and in {column.column!r}")
                self.expected[name] = column

    def task_names(self, split: Split) -> list[str]:
        """Names of the listed tasks whose files exist."""
        if split != "test":
            return []
        names = [name for name in self.expected if name not in self.missing]
        if not names:
            reason = next(iter(self.missing.values()), "none is listed")
            raise ValueError(f"none of the {len(self.expected)} tasks of {self.stated_by} is available: {reason}")
        return names

    def task(self, name: str) -> Task:
        """Metadata of a task, with the column's name as category and the column's level and metric."""
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
        """All examples of a task, as its collection reads them."""
        collection, inner = self._inner(name)
        return (replace(example, task=name) for example in collection.examples(inner))

    def demonstration_pool(self, name: str) -> list[Example] | None:
        """Examples of the collection's demonstration reader; None without a reader, or if it lacks the task."""
        collection, _, inner = name.partition("/")
        reader = self.demonstration_readers.get(collection)
        if reader is None:
            return None
        try:
            if not any(inner in reader.task_names(split) for split in SPLITS):
                return None
            examples = list(reader.examples(inner))
        except MissingFiles:
            return None
        # Negative indices: these are rows of another file than the evaluated examples.
        return [replace(example, task=name, index=-1 - example.index) for example in examples]

    def unread_lines(self) -> list[str]:
        """The lines of the collections; of one folder that several read, the first."""
        return list(dict.fromkeys(line for reader in self.collections.values() for line in reader.unread_lines()))

    def fingerprint(self, name: str) -> str:
        collection, inner = self._inner(name)
        return collection.fingerprint(inner)

    @cached_property
    def missing(self) -> dict[str, str]:
        """The error of each listed task whose files are missing."""
        reasons = {}
        for name in self.expected:
            try:
                next(self.examples(name), None)
            except MissingFiles as error:
                reasons[name] = str(error)
        return reasons

    def _inner(self, name: str) -> tuple[Benchmark, str]:
        if name not in self.expected:
            raise ValueError(
                f"no task {name!r} among the {len(self.expected)} expected; {nearest(name, self.expected)}"
            )
        collection, _, inner = name.partition("/")
        return self.collections[collection], inner
