"""The report as a table for a terminal, and as Markdown."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from ...datamodules.evaluation.coverage import Coverage
from ...datamodules.messages import counted
from ...datamodules.schema import LEVELS
from ...datamodules.visible_text import escape_markdown, terminal_text
from ...lightning_modules.evaluation.aggregation import Cell
from ...lightning_modules.evaluation.significance import Difference, Estimate
from .comparison import Comparison, SystemsReport
from .coverage_text import (
    COLUMN_HEADER,
    LEVELS_NOTE,
    TASK_HEADER,
    coverage_rows,
    coverage_sentence,
    incomplete_note,
    task_rows,
)
from .score_limits import limits_of, limits_text
from .scores import METRICS, Group, Mean, ScoreReport

POOLED = {metric: METRICS[metric] for metric in ("rouge_l", "exact_match")}
"""Metrics of pooled instances, which every prediction has."""

POOLED_HEADER = ["", "tasks", "instances", *POOLED.values()]


def percent(estimate: Estimate | None) -> str:
    """Return a score in percent with its interval.

    >>> percent(Estimate(0.5, 0.4125, 0.6, 100))
    '50.0 [41.2, 60.0]'
    """
    if estimate is None:
        return "no tasks"
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def level_name(name: str) -> str:
    """Return a level with spaces instead of underscores; any other name unchanged."""
    return name.replace("_", " ") if name in LEVELS else name


def metric_name(metric: str) -> str:
    """Return a metric's name in text: ROUGE-L, exact match, accuracy."""
    return "ROUGE-L" if metric == "rouge_l" else metric.replace("_", " ")


def cell_name(cell: Cell) -> str:
    """Return the name of a score in tables, from its key.

    >>> cell_name(Cell("level", "fully_held_out", shots=5))
    'fully held out, 5 shots'
    """
    name = {
        "selection": "selection score",
        "average": "average",
        "level": level_name(cell.level or ""),
        "column": f"{cell.name} ({level_name(cell.level or '')})",
        "task": cell.name,
    }[cell.kind]
    return name if cell.shots is None else f"{name}, {counted(cell.shots, 'shot')}"


def unscored_text(report: ScoreReport) -> str | None:
    """Return a sentence on examples that were not evaluated and count in no mean; None if there are none."""
    if not report.unscored:
        return None
    scored = sum(group.instances for group in report.overall)
    return f"{report.unscored} of {report.unscored + scored} examples were not evaluated."


def overall_means(report: ScoreReport) -> list[Mean]:
    """Return the averages at each number of shots, and if there are several, their mean for model selection."""
    selection = [report.selection] if report.selection and len(report.averages) > 1 else []
    return [*report.averages, *selection]


def _row(group: Group, several_shots: bool) -> list[str]:
    name = level_name(group.name) + (f", {counted(group.shots, 'shot')}" if several_shots else "")
    return [name, str(group.tasks), str(group.instances), *(_pooled(group, metric) for metric in POOLED)]


def _pooled(group: Group, metric: str) -> str:
    """Return a group's score by a metric, with the number of instances that the metric cannot score."""
    remark = limits_of(group).get(metric)
    return percent(group.estimates.get(metric)) + (f" ({remark})" if remark else "")


def _overall(report: ScoreReport) -> list[Group]:
    return report.overall or [Group("overall", 0, "", 0, {})]


def render_terminal(report: ScoreReport, title: str) -> Table:
    """Return the levels and the overall scores as a table for a terminal."""
    # Without vertical lines it fits into 80 columns, the width of a SLURM log.
    title = terminal_text(f"{title}: percent, 95% intervals")
    table = Table("level", title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
    for column in ("tasks", "instances", *POOLED.values()):
        table.add_column(column, justify="right")
    several = len(report.overall) > 1
    for group in report.levels:
        table.add_row(*map(terminal_text, _row(group, several)))
    table.add_section()
    for group in _overall(report):
        table.add_row(*map(terminal_text, _row(group, several)))
    lines = [
        f"{cell_name(mean.cell)}: {percent(mean.estimate)} over {counted(mean.parts, 'column')}"
        f"{incomplete_note(report.coverage, mean.cell)}"
        for mean in overall_means(report)
    ]
    table.caption = terminal_text("\n".join([*lines, *filter(None, [unscored_text(report)]), *limits_text(report)]))
    return table


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines of a Markdown table with escaped cells."""
    lines = [f"| {' | '.join(map(escape_markdown, head))} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(map(escape_markdown, row))} |" for row in rows), ""]


def intervals_text(reports: Sequence[ScoreReport]) -> str:
    """Return a sentence that says what the intervals of some systems' scores cover."""
    kinds = {
        "bootstrap intervals over instances" if report.runs == 1 else f"t-intervals over {report.runs} runs"
        for report in reports
    }
    return f"Percent, with 95% {' and '.join(sorted(kinds))}."


def render_markdown(report: ScoreReport, title: str) -> str:
    """Return the report of one system as Markdown."""
    lines = [f"# {escape_markdown(title)}", "", intervals_text([report]), ""]
    if missing := unscored_text(report):
        lines += [missing, ""]
    for limit in limits_text(report):
        lines += [escape_markdown(limit), ""]
    if report.coverage is not None:
        lines += _coverage_lines(report.coverage)
    lines += ["## Levels of generalization", "", "Instances are pooled.", ""]
    several = len(report.overall) > 1
    lines += markdown_table(POOLED_HEADER, [_row(group, several) for group in [*report.levels, *_overall(report)]])
    lines += _column_lines(report)
    lines += _group_lines("Categories", report.categories, several)
    lines += _group_lines("Tasks", report.tasks, several)
    return "\n".join(lines)


def _column_lines(report: ScoreReport) -> list[str]:
    """Averages, levels and columns in OPT-IML's aggregation."""
    lines = ["## Averages over category columns", ""]
    lines += ["Subtypes are averaged into tasks, tasks into columns, columns into levels.", ""]
    means = [*overall_means(report), *report.level_means, *report.columns]
    lines += markdown_table(
        ["", "mean of", "score"],
        [
            (cell_name(m.cell) + incomplete_note(report.coverage, m.cell), str(m.parts), percent(m.estimate))
            for m in means
        ],
    )
    if report.not_counted:
        lines += [f"Not counted in any column: {escape_markdown('; '.join(report.not_counted))}.", ""]
    return lines


def _group_lines(heading: str, groups: Iterable[Group], several_shots: bool) -> list[str]:
    rows = [
        [*_row(group, several_shots), metric_name(group.metric), percent(group.estimates["score"])] for group in groups
    ]
    lines = [f"## {heading}", "", "Instances are pooled; the last column uses the metric of each task.", ""]
    return [*lines, *markdown_table([*POOLED_HEADER, "metric", "score"], rows)]


def _coverage_lines(coverage: Coverage) -> list[str]:
    lines = ["## Coverage", "", escape_markdown(f"{coverage_sentence(coverage)} {LEVELS_NOTE}"), ""]
    return [
        *lines,
        *markdown_table(COLUMN_HEADER, coverage_rows(coverage)),
        *markdown_table(TASK_HEADER, task_rows(coverage)),
    ]


def render_systems_markdown(report: SystemsReport, title: str) -> str:
    """Return the report of several systems as Markdown: averages, differences, then the report of each system."""
    names = [system.name for system in report.systems]
    by_cell = [
        {mean.cell: mean.estimate for mean in [*overall_means(s.report), *s.report.level_means, *s.report.columns]}
        for s in report.systems
    ]
    every = list(dict.fromkeys(cell for cells in by_cell for cell in cells))
    lines = [f"# {escape_markdown(title)}", ""]
    if len(names) > 1:
        rows = [[cell_name(cell), *(percent(cells.get(cell)) for cells in by_cell)] for cell in every]
        intervals = intervals_text([system.report for system in report.systems])
        lines += [intervals, "", *markdown_table(["", *names], rows)]
    for comparison in report.comparisons:
        lines += _comparison_lines(comparison)
    for system in report.systems:
        lines += [render_markdown(system.report, system.name).replace("\n#", "\n##").replace("# ", "## ", 1)]
    return "\n".join(lines)


def _comparison_lines(comparison: Comparison) -> list[str]:
    rows = [
        [cell_name(c.cell), f"{100 * c.difference.mean:+.1f}", interval_text(c.difference), f"{c.difference.p:.3f}"]
        for c in comparison.differences
        if c.cell.kind != "task"
    ]
    return [
        f"## {escape_markdown(comparison.other)} compared with {escape_markdown(comparison.base)}",
        "",
        escape_markdown(shared_instances_text(comparison)),
        "",
        *markdown_table(["", "difference", "95% interval", "p"], rows),
    ]


def interval_text(difference: Difference) -> str:
    """Return the ends of a difference's interval, in percentage points."""
    return f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def shared_instances_text(comparison: Comparison) -> str:
    """Return a sentence that names the test, a paired bootstrap, and counts its instances and those left out.

    Left out are instances that only one of the two systems was evaluated on. A second sentence says what the intervals
    cover, since those of the two scores may be over seeds.
    """
    left_out = [
        f"{count:,} of {name} alone"
        for count, name in ((comparison.only_base, comparison.base), (comparison.only_other, comparison.other))
        if count
    ]
    text = f"Paired bootstrap over the {comparison.shared:,} instances that both systems were evaluated on"
    text += f"; left out: {' and '.join(left_out)}." if left_out else "."
    return f"{text} Scores of repeated runs are averaged; intervals cover other instances, not other training seeds."
