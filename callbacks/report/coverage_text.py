"""Text on which tasks of a published results table were evaluated, so that incomplete averages are marked."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from ...datamodules.evaluation.coverage import Coverage, TaskCoverage
from ...datamodules.schema import LEVELS
from ...datamodules.visible_text import terminal_text
from ...lightning_modules.evaluation.aggregation import Cell

MISSING = "missing"
COLUMN_HEADER = ["", "tasks listed", "evaluated", "instances expected", "available", "evaluated"]
TASK_HEADER = ["task", "column", "expected", "available", "evaluated", "remark"]
LEVELS_NOTE = "Levels are those of the table's authors; the training tasks of this model are not known."
"""The note on levels that are declared by a table and not computed from training tasks."""


def _column_row(name: str, tasks: Sequence[TaskCoverage]) -> list[str]:
    """A column's tasks and instances: listed, available and evaluated."""
    evaluated = sum(task.run > 0 for task in tasks)
    available, instances = sum(task.available for task in tasks), sum(task.run for task in tasks)
    tasks_text = str(evaluated) if evaluated else MISSING
    return [name, str(len(tasks)), tasks_text, expected_instances(tasks), str(available), str(instances)]


def expected_instances(tasks: Iterable[TaskCoverage]) -> str:
    """Return the number of instances that a published table states, as text; "?" is added for tasks without a number.

    >>> expected_instances([TaskCoverage("a", "A", LEVELS[0], number, 0, 0) for number in (9, None)])
    '9 + ?'
    """
    stated = [task.expected for task in tasks]
    total = sum(number for number in stated if number is not None)
    return f"{total or ''}{' + ' if total else ''}?" if None in stated else str(total)


def coverage_rows(coverage: Coverage) -> list[list[str]]:
    """Return how much of each column of a published table was evaluated, a table row for each, and one for all."""
    rows = [_column_row(column, tasks) for (_, column), tasks in coverage.columns().items()]
    return [*rows, _column_row("all", coverage.tasks)]


def task_rows(coverage: Coverage) -> list[list[str]]:
    """Return how much of each task of a published table was evaluated, with a remark on files and unknown tokens."""
    return [
        [
            task.task,
            task.column,
            "?" if task.expected is None else str(task.expected),
            str(task.available),
            str(task.run) if task.run else MISSING,
            task.missing or (_lost(task) if task.run else "none of its instances was evaluated"),
        ]
        for task in coverage.tasks
    ]


def _lost(task: TaskCoverage) -> str:
    """Return a remark on the unknown tokens of an evaluated task; empty if there are none."""
    if not (task.unknown_source or task.unknown_target):
        return ""
    return f"{task.unknown_source:,} unknown tokens in prompts, {task.unknown_target:,} in answers"


def coverage_sentence(coverage: Coverage) -> str:
    """Return a sentence on how much of the published table was evaluated, with the names of missing tasks.

    >>> coverage_sentence(Coverage("Table 1", [TaskCoverage("a/b", "B", LEVELS[0], 9, 0, 0, "no file")]))
    'Of Table 1, 0 of 1 tasks, 0 of 1 columns, 0 of 9 instances were evaluated; averages are over these. Missing: a/b.'
    """
    columns, missing = coverage.columns().values(), coverage.missing()
    evaluated_columns = sum(any(task.run for task in tasks) for tasks in columns)
    tasks = f"{len(coverage.tasks) - len(missing)} of {len(coverage.tasks)} tasks"
    instances = f"{sum(task.run for task in coverage.tasks)} of {expected_instances(coverage.tasks)} instances"
    sentence = (
        f"Of {coverage.stated_by}, {tasks}, {evaluated_columns} of {len(columns)} columns, {instances} were evaluated"
    )
    if missing:
        sentence += f"; averages are over these. Missing: {', '.join(task.task for task in missing)}"
    lossy = [task for task in coverage.tasks if task.run and task.unknown_target]
    if lossy:
        lost = ", ".join(f"{task.task} {task.unknown_target:,}" for task in lossy)
        sentence += f". The tokenizer has no token for parts of the answers, unknown tokens by task: {lost}"
    return f"{sentence}."


def incomplete_note(coverage: Coverage | None, cell: Cell) -> str:
    """Return a note, written behind a score's name, on listed tasks that the score lacks; empty if it is complete.

    Args:
        coverage: Which tasks of a published table were evaluated; None without a table.
        cell: Key of the score.
    """
    if coverage is None or cell.kind == "task":
        return ""
    columns = coverage.columns()
    if cell.kind == "column":
        tasks = columns.get((cell.level or LEVELS[0], cell.name), [])
        missing = sum(not task.run for task in tasks)
        return f" — incomplete: {missing} of {len(tasks)} tasks missing" if missing else ""
    of_level = [tasks for (level, _), tasks in columns.items() if cell.level in (None, level)]
    lacking = sum(not all(task.run for task in tasks) for tasks in of_level)
    return f" — incomplete: {lacking} of {len(of_level)} columns lack tasks" if lacking else ""


def terminal_coverage(coverage: Coverage) -> Table:
    """Return the coverage of each column as a table for a terminal."""
    table = Table(
        title=f"Coverage of {terminal_text(coverage.stated_by)}", title_justify="left", box=box.SIMPLE_HEAD, padding=0
    )
    for place, name in enumerate(["column", *COLUMN_HEADER[1:]]):
        table.add_column(name, justify="right" if place else "left")
    for row in coverage_rows(coverage):
        table.add_row(*map(terminal_text, row))
    table.caption, table.caption_justify = terminal_text(coverage_sentence(coverage)), "left"
    return table
