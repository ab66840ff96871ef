"""What a table of a paper lists, what of it is at hand, and what was run: nothing goes missing in silence."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..benchmarks.suite import Suite
from ..schema import EvaluationExample, Level


@dataclass(frozen=True)
class TaskCoverage:
    """One listed task, in instances: rows of its file, however many prompts each makes.

    Args:
        task: Its name.
        column: The column it counts in.
        level: How far it lies from training.
        expected: Instances of the paper; None where it states none.
        available: Instances of the files at hand that can be asked.
        run: Instances answered, at every number of shots and in every template.
        missing: Why there is no file, or empty.
    """

    task: str
    column: str
    level: Level
    expected: int | None
    available: int
    run: int
    missing: str = ""


@dataclass(frozen=True)
class Coverage:
    """Of a table that `stated_by` names, every listed task, run or not."""

    stated_by: str
    tasks: list[TaskCoverage]

    def columns(self) -> dict[tuple[Level, str], list[TaskCoverage]]:
        """The tasks of each column, in the table's order."""
        found: dict[tuple[Level, str], list[TaskCoverage]] = {}
        for task in self.tasks:
            found.setdefault((task.level, task.column), []).append(task)
        return found

    def of_level(self, level: Level) -> list[TaskCoverage]:
        """The listed tasks of a level."""
        return [task for task in self.tasks if task.level == level]

    def missing_columns(self, level: Level) -> list[str]:
        """The columns of a level of which nothing was run."""
        columns = [(column, tasks) for (of, column), tasks in self.columns().items() if of == level]
        return [column for column, tasks in columns if not any(task.run for task in tasks)]

    def missing(self) -> list[TaskCoverage]:
        """The tasks of which nothing was run."""
        return [task for task in self.tasks if not task.run]


def suite_coverage(
    suite: Suite,
    examples: Iterable[EvaluationExample],
    rows: Iterable[int],
    available: Mapping[str, int],
    scored: Collection[int],
) -> Coverage:
    """The coverage of a suite.

    Args:
        suite: What is listed.
        examples: What was to be asked.
        rows: The row that each example shows.
        available: Rows of each task's file that can be asked.
        scored: Numbers of the examples that were answered.
    """
    asked: dict[str, set[int]] = {}
    unanswered: dict[str, set[int]] = {}
    for example, row in zip(examples, rows, strict=True):
        asked.setdefault(example.task, set()).add(row)
        if example.number not in scored:
            unanswered.setdefault(example.task, set()).add(row)
    return Coverage(
        suite.stated_by,
        [
            TaskCoverage(
                task=name,
                column=column.column,
                level=column.level,
                expected=column.tasks[name],
                available=available.get(name, 0),
                run=len(asked.get(name, set()) - unanswered.get(name, set())),
                missing=suite.missing.get(name, ""),
            )
            for name, column in suite.expected.items()
        ],
    )
