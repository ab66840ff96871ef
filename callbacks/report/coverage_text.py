"""What of a table's tasks was run, said so that nobody takes a part for the whole."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ...datamodules.evaluation.coverage import Coverage, TaskCoverage
from ...datamodules.schema import LEVELS
from ...lightning_modules.evaluation.aggregation import Cell

MISSING = "missing"

HEAD = ["", "tasks listed", "run", "instances expected", "available", "run"]


def column_row(name: str, tasks: Sequence[TaskCoverage]) -> list[str]:
    """A column: its tasks and instances as listed, at hand and run."""
    run = sum(task.run > 0 for task in tasks)
    instances = [str(sum(each)) for each in ([t.available for t in tasks], [t.run for t in tasks])]
    return [name, str(len(tasks)), str(run) if run else MISSING, expected_instances(tasks), *instances]


def expected_instances(tasks: Iterable[TaskCoverage]) -> str:
    """How many instances are expected of all tasks; a question mark stands for those that nobody states."""
    stated = [task.expected for task in tasks]
    known = sum(number for number in stated if number is not None)
    return f"{known or ''}{' + ' if known else ''}?" if None in stated else str(known)


def coverage_rows(coverage: Coverage) -> list[list[str]]:
    """A row for each column, and one for all."""
    rows = [column_row(column, tasks) for (_, column), tasks in coverage.columns().items()]
    return [*rows, column_row("all", coverage.tasks)]


def task_rows(coverage: Coverage) -> list[list[str]]:
    """A row for each task: where it counts, its instances, and why it is missing."""
    return [
        [
            task.task,
            task.column,
            "?" if task.expected is None else str(task.expected),
            str(task.available),
            str(task.run) if task.run else MISSING,
            task.missing or ("" if task.run else "nothing of it was answered"),
        ]
        for task in coverage.tasks
    ]


TASK_HEAD = ["task", "column", "expected", "available", "run", "why it is missing"]


def coverage_sentence(coverage: Coverage) -> str:
    """What is missing of the table, in a sentence.

    >>> coverage_sentence(Coverage("Table 1", [TaskCoverage("a/b", "B", LEVELS[0], 9, 0, 0, "no file")]))
    'Of Table 1: 0 of 1 tasks, 0 of 1 columns, 0 of 9 instances were run; averages are over these alone. Missing: a/b.'
    """
    columns, missing = coverage.columns().values(), coverage.missing()
    whole = sum(any(task.run for task in tasks) for tasks in columns)
    tasks = f"{len(coverage.tasks) - len(missing)} of {len(coverage.tasks)} tasks"
    instances = f"{sum(task.run for task in coverage.tasks)} of {expected_instances(coverage.tasks)} instances"
    said = f"Of {coverage.stated_by}: {tasks}, {whole} of {len(columns)} columns, {instances} were run"
    if not missing:
        return f"{said}."
    names = ", ".join(task.task for task in missing)
    return f"{said}; averages are over these alone. Missing: {names}."


def incomplete(coverage: Coverage | None, cell: Cell) -> str:
    """What a score lacks of what its table lists, behind its label; empty where it lacks nothing."""
    if coverage is None or cell.kind == "task":
        return ""
    columns = coverage.columns()
    if cell.kind == "column":
        tasks = columns.get((cell.level or LEVELS[0], cell.name), [])
        lost, of, what = sum(not task.run for task in tasks), len(tasks), "tasks"
    else:
        inside = [tasks for (level, _), tasks in columns.items() if cell.level in (None, level)]
        lost, of, what = sum(not all(task.run for task in tasks) for tasks in inside), len(inside), "columns"
        if lost:
            return f" — incomplete: {lost} of {of} {what} lack tasks"
    return f" — incomplete: {lost} of {of} {what} missing" if lost else ""


LEVELS_SAID = "Levels are those that the table's authors give; what this model was trained on is not known here."
"""What to say where levels are declared."""


def terminal_coverage(coverage: Coverage) -> Table:
    """Columns and what was run of them, for a terminal."""
    table = Table(
        title=f"Coverage of {escape(coverage.stated_by)}", title_justify="left", box=box.SIMPLE_HEAD, padding=0
    )
    for place, name in enumerate(["column", *HEAD[1:]]):
        table.add_column(name, justify="right" if place else "left")
    for row in coverage_rows(coverage):
        table.add_row(*map(escape, row))
    table.caption, table.caption_justify = escape(coverage_sentence(coverage)), "left"
    return table
