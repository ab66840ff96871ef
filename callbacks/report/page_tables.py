"""The tables of the report's page. A cell is a text, an estimate, or None if a system has no score."""

from dataclasses import dataclass

from ...datamodules.evaluation.coverage import Coverage
from ...datamodules.messages import counted
from ...lightning_modules.evaluation.significance import Estimate
from .comparison import Comparison, SystemsReport
from .coverage_text import COLUMN_HEADER, TASK_HEADER, coverage_rows, task_rows
from .page_figures import cells_of_kind, estimates_in, estimates_of
from .published_scores import HEADER, PublishedComparison, column_name, percentage, signed
from .score_limits import limits_of
from .scores import Group
from .text import cell_name, interval_text, level_name, metric_name, overall_means

TableCell = str | Estimate | None


@dataclass(frozen=True)
class PageTable:
    """A table of the report's HTML page, whose first column names the rows.

    Args:
        title: Title for screen readers.
        header: Names of the columns.
        rows: Cells of each row.
        text: Indices of columns that hold text and are aligned left; the others hold numbers.
    """

    title: str
    header: list[str]
    rows: list[list[TableCell]]
    text: tuple[int, ...] = (0,)


def summary_table(report: SystemsReport) -> PageTable:
    """Return the averages, and ROUGE-L and exact match over all instances, with a column for each system."""
    means = [{mean.cell: mean.estimate for mean in overall_means(system.report)} for system in report.systems]
    cells = list(dict.fromkeys(cell for of_system in means for cell in of_system))
    rows: list[list[TableCell]] = [
        [cell_name(cell).capitalize(), *(of_system.get(cell) for of_system in means)] for cell in cells
    ]
    pooled = [{group.shots: group.estimates for group in system.report.overall} for system in report.systems]
    shots = sorted({count for of_system in pooled for count in of_system})
    for metric, name in (("rouge_l", "ROUGE-L"), ("exact_match", "Exact match")):
        for count in shots:
            label = f"{name}, all instances" + (f", {counted(count, 'shot')}" if len(shots) > 1 else "")
            rows.append([label, *(of_system.get(count, {}).get(metric) for of_system in pooled)])
    return PageTable("Summary", ["", *(_with_runs(system.name, system.runs) for system in report.systems)], rows)


def published_table(comparison: PublishedComparison) -> PageTable:
    """Return a table of published scores beside ours, with both changes from the first arm (variant) of a sweep."""
    rows: list[list[TableCell]] = [
        [
            column_name(score),
            str(score.shots),
            score.arm,
            percentage(score.published),
            score.ours or "not evaluated",
            signed(score.published_change),
            signed(score.change),
        ]
        for score in comparison.scores
    ]
    return PageTable("Published scores", list(HEADER), rows, text=(0, 2))


def _with_runs(name: str, runs: list[str]) -> str:
    return f"{name} ({len(runs)} runs)" if len(runs) > 1 else name


def coverage_tables(coverage: Coverage) -> tuple[PageTable, PageTable]:
    """Return how much of a published results table was evaluated, as a table by column and a table by task."""
    columns: list[list[TableCell]] = [[*row] for row in coverage_rows(coverage)]
    tasks: list[list[TableCell]] = [[*row] for row in task_rows(coverage)]
    return (
        PageTable("Coverage by column", COLUMN_HEADER, columns),
        PageTable("Coverage by task", TASK_HEADER, tasks, text=(0, 1, 5)),
    )


def shots_table(report: SystemsReport) -> PageTable:
    """Return the average and the mean of each level of generalization by number of shots, a column for each system."""
    cells = [*cells_of_kind(report, "average"), *cells_of_kind(report, "level")]
    rows: list[list[TableCell]] = [[cell_name(cell), *estimates_in(report, cell)] for cell in cells]
    return PageTable("Scores by shots", ["", *(system.name for system in report.systems)], rows)


def columns_table(report: SystemsReport, level: str) -> PageTable:
    """Return the scores of each category (or benchmark) at a level of generalization, a column for each system."""
    cells = cells_of_kind(report, "column", level)
    several = len({cell.shots for cell in cells}) > 1
    rows: list[list[TableCell]] = [
        [cell.name + (f", {counted(cell.shots or 0, 'shot')}" if several else ""), *estimates_in(report, cell)]
        for cell in cells
    ]
    return PageTable(level_name(level), [report.by, *(system.name for system in report.systems)], rows)


def difference_table(comparison: Comparison) -> PageTable:
    """Return the difference between two systems in every score, with its interval and p-value."""
    rows: list[list[TableCell]] = [
        [
            cell_name(row.cell),
            f"{100 * row.difference.mean:+.1f}",
            interval_text(row.difference),
            f"{row.difference.p:.3f}",
            str(row.parts),
        ]
        for row in comparison.differences
    ]
    return PageTable("Differences", ["", "difference", "95% interval", "p", "mean of"], rows)


def pooled_table(report: SystemsReport) -> PageTable:
    """Return the mean over all instances of each category and level, by its metric, a column for each system."""
    groups: dict[tuple[str, int, str], list[Group | None]] = {}
    for place, system in enumerate(report.systems):
        for group in [*system.report.categories, *system.report.levels]:
            if group.estimates:
                key = (level_name(group.name), group.shots, group.metric)
                groups.setdefault(key, [None] * len(report.systems))[place] = group
    rows: list[list[TableCell]] = []
    for (name, shots, metric), of_systems in groups.items():
        first = next(group for group in of_systems if group)
        scores = [group.estimates["score"] if group else None for group in of_systems]
        rows.append([name, metric_name(metric), str(shots), str(first.tasks), f"{first.instances:,}", *scores])
    header = ["", "metric", "shots", "tasks", "instances", *(system.name for system in report.systems)]
    return PageTable("Pooled instances", header, rows, text=(0, 1))


def task_table(report: SystemsReport) -> PageTable:
    """Return a row for each task, system and number of shots, with a remark on instances that a metric cannot score."""
    rows: list[list[TableCell]] = [
        [
            group.name,
            group.category,
            system.name,
            metric_name(group.metric),
            str(group.shots),
            str(group.instances),
            *(group.estimates[metric] for metric in ("score", "rouge_l", "exact_match")),
            ", ".join(limits_of(group).values()),
        ]
        for system in report.systems
        for group in system.report.tasks
    ]
    header = [
        "task",
        "category",
        "system",
        "metric",
        "shots",
        "instances",
        "score",
        "ROUGE-L",
        "exact match",
        "remarks",
    ]
    return PageTable("Tasks", header, rows, text=(0, 1, 2, 3, 9))


def level_means_text(report: SystemsReport, level: str) -> str:
    """Return the means of a level of generalization as text, e.g. ``mean 41.2 / 43.0 (0 shots)`` for two systems.

    The text is empty if no task of the level was evaluated.
    """
    texts = []
    for cell in cells_of_kind(report, "level", level):
        estimates = [estimates_of(system).get(cell) for system in report.systems]
        scores = " / ".join("–" if estimate is None else f"{100 * estimate.mean:.1f}" for estimate in estimates)
        texts.append(f"{scores} ({counted(cell.shots or 0, 'shot')})")
    return "mean " + ", ".join(texts) if texts else ""
