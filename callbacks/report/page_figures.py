"""The figures of the report's page: their scores, titles and captions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...datamodules.messages import counted
from ...datamodules.schema import LEVELS, Level
from ...lightning_modules.evaluation.aggregation import Cell, grouped
from ...lightning_modules.evaluation.significance import Estimate
from .comparison import Comparison, System, SystemsReport
from .coverage_text import incomplete_note
from .figure_style import MOST_SYSTEMS, svg_element, system_color, write_figure_files
from .score_figures import Panel, ScoreRow, difference_intervals, score_bars, shot_curves
from .scores import Group
from .text import cell_name, level_name, overall_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report's HTML page, with title and caption.

    Args:
        name: File name without suffix, by which the page places the figure.
        title: Title for screen readers.
        caption: The sentence above it.
        figure: The drawing.
    """

    name: str
    title: str
    caption: str
    figure: "Figure"

    def svg(self) -> str:
        """Return the drawing as an SVG element."""
        return svg_element(self.figure, self.title)

    def write(self, folder: Path, formats: Sequence[str]) -> None:
        """Write the drawing into a folder, a file for each format."""
        write_figure_files(self.figure, folder, self.name, self.title, formats)


def report_figures(report: SystemsReport) -> list[ReportFigure]:
    """Return all figures of a page, in its order.

    Raises:
        ValueError: There are more systems than a figure shows.
    """
    if len(report.systems) > MOST_SYSTEMS:
        raise ValueError(
            f"a page shows at most {MOST_SYSTEMS} systems, got {len(report.systems)}: report fewer at once"
        )
    levels = [figure for level in LEVELS if (figure := _level_figure(report, level))]
    shots = [figure] if (figure := _shot_figure(report)) else []
    differences = [_difference_figure(comparison, report) for comparison in report.comparisons]
    tasks = [figure for level in (*LEVELS, "mixed") if (figure := _task_figure(report, level))]
    return [*levels, *shots, *differences, *tasks]


def estimates_of(system: System) -> dict[Cell, Estimate]:
    """Return a system's averages, means of levels and columns, with intervals, by their keys (``Cell``)."""
    report = system.report
    return {mean.cell: mean.estimate for mean in [*overall_means(report), *report.level_means, *report.columns]}


def cells_of_kind(report: SystemsReport, kind: str, level: str | None = None) -> list[Cell]:
    """Return the keys of all scores of one kind that any system of a report has, in order.

    Args:
        report: Scores of the systems.
        kind: Kind of the scores: "average", "level", "column" or "selection".
        level: Level of generalization of the scores; None for any.
    """
    cells = dict.fromkeys(cell for system in report.systems for cell in estimates_of(system))
    return [cell for cell in cells if cell.kind == kind and level in (None, cell.level)]


def estimates_in(report: SystemsReport, cell: Cell) -> list[Estimate | None]:
    """Return the value of one score for each system, with its interval; None for a system that lacks it.

    Args:
        report: Scores of the systems.
        cell: Key of the score, e.g. that of a level of generalization.
    """
    return [estimates_of(system).get(cell) for system in report.systems]


def _names(report: SystemsReport) -> list[str]:
    return [system.name for system in report.systems]


def _level_figure(report: SystemsReport, level: Level) -> ReportFigure | None:
    """Return a figure of the columns of a level; None if there are none."""
    cells = cells_of_kind(report, "column", level)
    if not cells:
        return None
    parts = {mean.cell: mean.parts for system in report.systems for mean in system.report.columns}
    several = len({cell.shots for cell in cells}) > 1
    rows = [
        ScoreRow(
            _with_shots(cell.name, cell.shots or 0, several),
            _column_note(report, cell, parts),
            estimates_in(report, cell),
        )
        for cell in cells
    ]
    title = f"{level_name(level).capitalize()}: scores by {report.by}"
    caption = f"Mean over the tasks of each {report.by}."
    return ReportFigure(f"level-{level}", title, caption, score_bars(rows, _names(report)))


def _with_shots(name: str, shots: int, several: bool) -> str:
    return f"{name}, {counted(shots, 'shot')}" if several else name


def _column_note(report: SystemsReport, cell: Cell, parts: Mapping[Cell, int]) -> str:
    """The number of a column's tasks, and a note on missing ones."""
    lacks = [incomplete_note(system.report.coverage, cell).removeprefix(" — incomplete: ") for system in report.systems]
    return "; ".join([counted(parts[cell], "task"), *dict.fromkeys(filter(None, lacks))])


def shot_counts(report: SystemsReport) -> list[int]:
    """Return the numbers of demonstrations (shots) at which a report has averages, in ascending order."""
    cells = [*cells_of_kind(report, "average"), *cells_of_kind(report, "level")]
    return sorted({cell.shots for cell in cells if cell.shots is not None})


def _shot_figure(report: SystemsReport) -> ReportFigure | None:
    """Return a figure of the average and the levels over the number of shots; None if there is one number."""
    shots = shot_counts(report)
    if len(shots) < 2:
        return None
    cells = [*cells_of_kind(report, "average"), *cells_of_kind(report, "level")]
    panels: list[Panel] = []
    for kind, level in dict.fromkeys((cell.kind, cell.level) for cell in cells):
        curves = [
            [estimates_of(system).get(Cell(kind, level, shots=count)) for count in shots] for system in report.systems
        ]
        panels.append((level_name(level).capitalize() if level else "Average", curves))
    title = "Scores over the number of shots"
    caption = "Scores over the number of demonstrations in the prompt, with 95% intervals."
    return ReportFigure("shots", title, caption, shot_curves(panels, shots, _names(report)))


def difference_name(comparison: Comparison, report: SystemsReport) -> str:
    """Return the name of a comparison's figure."""
    return f"difference-{_names(report).index(comparison.other)}"


def _difference_figure(comparison: Comparison, report: SystemsReport) -> ReportFigure:
    rows = [(cell_name(row.cell), row.difference) for row in comparison.differences if row.cell.kind != "task"]
    title = f"{comparison.other} compared with {comparison.base}"
    label = f"{comparison.other} minus {comparison.base}"
    figure = difference_intervals(rows, system_color(_names(report).index(comparison.other)), label)
    caption = f"Differences of scores; positive values favor {comparison.other}."
    return ReportFigure(difference_name(comparison, report), title, caption, figure)


def _task_figure(report: SystemsReport, level: str) -> ReportFigure | None:
    """Return a figure of the tasks of a level, by falling mean; all numbers of shots of a task stay together."""
    groups: dict[tuple[str, int], list[Group | None]] = {}
    for place, system in enumerate(report.systems):
        for group in system.report.tasks:
            if group.level == level:
                groups.setdefault((group.name, group.shots), [None] * len(report.systems))[place] = group
    if not groups:
        return None
    several = len({shots for _, shots in groups}) > 1
    rows = [
        ScoreRow(_with_shots(*key, several), "", [group.estimates["score"] if group else None for group in groups[key]])
        for key in _by_mean_of_task(groups)
    ]
    title = f"{level_name(level).capitalize()}: {counted(len({name for name, _ in groups}), 'task')}"
    caption = "Scores by the metric of each task."
    return ReportFigure(f"tasks-{level}", title, caption, score_bars(rows, _names(report)))


def _by_mean_of_task(groups: Mapping[tuple[str, int], Sequence[Group | None]]) -> list[tuple[str, int]]:
    def score(groups_of_systems: Iterable[Group | None]) -> float:
        return next(group for group in groups_of_systems if group).estimates["score"].mean

    by_task = grouped(groups, lambda key: key[0])
    means = {name: sum(score(groups[key]) for key in keys) / len(keys) for name, keys in by_task.items()}
    return sorted(groups, key=lambda key: (-means[key[0]], key))
