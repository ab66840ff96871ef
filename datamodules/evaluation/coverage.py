"""Coverage of a published results table: which of its tasks were evaluated, on how many instances, and which not."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..benchmarks.suite import Suite
from ..rendering.unknown_tokens import NOTHING_LOST, UnknownTokens
from ..schema import EvaluationExample, Level


@dataclass(frozen=True)
class TaskCoverage:
    """Numbers of one task of a published results table: instances in the paper, in the local files, and evaluated.

    An instance is a row of the task's file, however many prompts are rendered from it.

    Args:
        task: Name of the task.
        column: Column of the table that the task's score is averaged into.
        level: Level of generalization.
        expected: Number of instances in the paper; None if the paper does not report it.
        available: Number of instances in the local files that can be evaluated.
        run: Number of instances that were evaluated at every number of shots and with every template.
        missing: Reason why there is no data file; empty if there is one.
        unknown_source: Number of unknown tokens in the prompts of the evaluated instances.
        unknown_target: Number of unknown tokens in the options or references of the evaluated instances.
    """

    task: str
    column: str
    level: Level
    expected: int | None
    available: int
    run: int
    missing: str = ""
    unknown_source: int = 0
    unknown_target: int = 0


@dataclass(frozen=True)
class Coverage:
    """The tasks of a published results table, and on how many instances each was evaluated; for the report.

    Args:
        stated_by: The paper and its table.
        tasks: All tasks of the table, evaluated or not.
    """

    stated_by: str
    tasks: list[TaskCoverage]

    def columns(self) -> dict[tuple[Level, str], list[TaskCoverage]]:
        """Group the tasks by (level of generalization, column of the table), in the table's order."""
        columns: dict[tuple[Level, str], list[TaskCoverage]] = {}
        for task in self.tasks:
            columns.setdefault((task.level, task.column), []).append(task)
        return columns

    def of_level(self, level: Level) -> list[TaskCoverage]:
        """Return the tasks of one level of generalization."""
        return [task for task in self.tasks if task.level == level]

    def missing_columns(self, level: Level) -> list[str]:
        """Return the columns of a level of generalization in which no task was evaluated."""
        columns = [(column, tasks) for (of, column), tasks in self.columns().items() if of == level]
        return [column for column, tasks in columns if not any(task.run for task in tasks)]

    def missing(self) -> list[TaskCoverage]:
        """Return the tasks that were not evaluated."""
        return [task for task in self.tasks if not task.run]


def suite_coverage(
    suite: Suite,
    examples: Iterable[EvaluationExample],
    rows: Iterable[int],
    available: Mapping[str, int],
    scored: Collection[int],
    unknown: Mapping[str, UnknownTokens] | None = None,
) -> Coverage:
    """Count how many instances of each task of a published results table were evaluated.

    Args:
        suite: Benchmark that lists the table's tasks.
        examples: The evaluation set.
        rows: Row of its task's file that each example comes from.
        available: Number of rows of each task's file that can be evaluated.
        scored: Numbers of the examples that were scored (``EvaluationExample.number``).
        unknown: Counts of unknown tokens in each task's examples; None if there are none.
    """
    lost = unknown or {}
    evaluated: dict[str, set[int]] = {}
    incomplete: dict[str, set[int]] = {}
    for example, row in zip(examples, rows, strict=True):
        evaluated.setdefault(example.task, set()).add(row)
        if example.number not in scored:
            incomplete.setdefault(example.task, set()).add(row)
    return Coverage(
        suite.stated_by,
        [
            TaskCoverage(
                task=name,
                column=column.column,
                level=column.level,
                expected=column.tasks[name],
                available=available.get(name, 0),
                run=len(evaluated.get(name, set()) - incomplete.get(name, set())),
                missing=suite.missing.get(name, ""),
                unknown_source=lost.get(name, NOTHING_LOST).source,
                unknown_target=lost.get(name, NOTHING_LOST).target,
            )
            for name, column in suite.expected.items()
        ],
    )
