"""The evaluation tasks of a published table of results, as far as their files exist; no task trains.

::

    collections:                                  # benchmark readers, as in a Bench
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
from .own_data.file_tasks import as_benchmark

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class ExpectedColumn:
    """Names the tasks behind one column of a published table of results, and the level at which the paper has them.

    Args:
        column: Name of the column in the table; replaces the category of its tasks.
        tasks: Number of instances in the paper by task, named ``collection/task``; null if the paper states none.
        level: Generalization level of the tasks in the paper: ``fully_supervised``, ``partially_supervised`` or
            ``fully_held_out``. It cannot be computed, since no task trains here.
        metric: Metric of the tasks: ``rouge_l``, ``exact_match``, ``accuracy`` or ``token_f1``; None for their
            readers'.
    """

    column: str
    tasks: dict[str, int | None]
    level: Level = "fully_held_out"
    metric: Metric | None = None


class Suite(Benchmark):
    """Reads the evaluation tasks behind a table of results in a paper, to repeat the table; no task trains.

    Args:
        collections: Benchmark readers, or paths of your own files, by name. The name is the first part of their tasks'
            names.
        expected: The columns of the table with their tasks. List all of them: a task without files is reported as
            missing, so that an average is never taken for the whole table's.
        stated_by: Paper and table that state the tasks and numbers of instances, for reports.
        demonstrations: Readers that supply few-shot demonstrations, by collection, e.g. the same reader with ``split:
            train``. Without one, demonstrations are those published with a task, or else instances of the evaluation
            file, which are then not evaluated.
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
                f"demonstrations are for {stray[0]!r}, which is not a collection; {nearest(stray[0], self.collections)}"
            )
        self.expected: dict[str, ExpectedColumn] = {}
        for column in expected:
            for name in column.tasks:
                if name.partition("/")[0] not in self.collections or "/" not in name:
                    raise ValueError(
                        f"{column.column} lists {name!r}: expected collection/task with one of the collections "
                        f"{some(list(collections))}"
                    )
                if name in self.expected:
                    raise ValueError(f"{name!r} is in {self.expected[name].column!r} and in {column.column!r}")
                self.expected[name] = column

    def task_names(self, split: Split) -> list[str]:
        """Return the names of the listed tasks whose files exist, under "test"; other splits are empty.

        Raises:
            ValueError: No task has files.
        """
        if split != "test":
            return []
        names = [name for name in self.expected if name not in self.missing]
        if not names:
            reason = next(iter(self.missing.values()), "none is listed")
            raise ValueError(f"none of the {len(self.expected)} tasks of {self.stated_by} is available: {reason}")
        return names

    def task(self, name: str) -> Task:
        """Return a task's metadata, with the column's name as category, and the column's level and metric."""
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
        """Yield all examples of a task, as its collection reads them."""
        collection, inner = self._inner(name)
        return (replace(example, task=name) for example in collection.examples(inner))

    def demonstration_pool(self, name: str) -> list[Example] | None:
        """Return the examples from which a task's few-shot demonstrations are drawn, e.g. those of its training split.

        None if `demonstrations` has no reader for the task's collection, or the reader lacks the task. The examples'
        indices are negative, since they are rows of another file than the evaluated examples.
        """
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
        # Negative: no index of an evaluated example.
        return [replace(example, task=name, index=-1 - example.index) for example in examples]

    def unread_lines(self) -> list[str]:
        """Return the lines of all collections; equal lines of collections that share a folder appear once."""
        return list(dict.fromkeys(line for reader in self.collections.values() for line in reader.unread_lines()))

    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of the task in its collection."""
        collection, inner = self._inner(name)
        return collection.fingerprint(inner)

    @cached_property
    def missing(self) -> dict[str, str]:
        """The error message of each listed task whose files are missing, by task; computed once."""
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
