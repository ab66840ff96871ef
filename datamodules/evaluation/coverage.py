"""Coverage of a paper's table: its evaluated and missing tasks, with numbers of instances."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..benchmarks.suite import Suite
from ..rendering.unknown_tokens import NOTHING_LOST, UnknownTokens
from ..schema import EvaluationExample, Level


@dataclass(frozen=True)
class TaskCoverage:
    """One task of the table. Counts are instances (rows of its file), however many prompts each makes.

    Args:
        task: Its name.
        column: The column it counts in.
        level: Its level of generalization.
        expected: Instances in the paper; None if the paper does not report them.
        available: Instances in the local files that can be evaluated.
        run: Instances that were evaluated at every number of shots and in every template.
        missing: The reason why there is no file; empty if there is one.
        unknown_source: Unknown tokens in the prompts of the evaluated instances.
        unknown_target: Unknown tokens in their options, or references.
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
    """All tasks of the table that `stated_by` names, evaluated or not."""

    stated_by: str
    tasks: list[TaskCoverage]

    def columns(self) -> dict[tuple[Level, str], list[TaskCoverage]]:
        """The tasks of each column, in the table's order."""
        columns: dict[tuple[Level, str], list[TaskCoverage]] = {}
        for task in self.tasks:
            columns.setdefault((task.level, task.column), []).append(task)
        return columns

    def of_level(self, level: Level) -> list[TaskCoverage]:
        """The tasks of one level."""
        return [task for task in self.tasks if task.level == level]

    def missing_columns(self, level: Level) -> list[str]:
        """The columns of a level none of whose tasks was evaluated."""
        columns = [(column, tasks) for (of, column), tasks in self.columns().items() if of == level]
        return [column for column, tasks in columns if not any(task.run for task in tasks)]

    def missing(self) -> list[TaskCoverage]:
        """The tasks that were not evaluated."""
        return [task for task in self.tasks if not task.run]


def suite_coverage(
    suite: Suite,
    examples: Iterable[EvaluationExample],
    rows: Iterable[int],
    available: Mapping[str, int],
    scored: Collection[int],
    unknown: Mapping[str, UnknownTokens] | None = None,
) -> Coverage:
    """The coverage of a suite's table.

    Args:
        suite: Lists the expected tasks.
        examples: The evaluation set.
        rows: The row of its task's file that each example comes from.
        available: Number of rows of each task's file that can be evaluated.
        scored: Numbers of the examples that were scored.
        unknown: Unknown tokens in each task's examples.
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
