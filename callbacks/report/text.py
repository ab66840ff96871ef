"""The report as a table for a terminal, and as Markdown."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ...datamodules.evaluation.coverage import Coverage
from ...datamodules.schema import LEVELS
from ...lightning_modules.evaluation.aggregation import Cell
from ...lightning_modules.evaluation.significance import Difference, Estimate
from .comparison import Comparison, SystemsReport
from .coverage_text import HEAD, LEVELS_SAID, TASK_HEAD, coverage_rows, coverage_sentence, incomplete, task_rows
from .scores import METRICS, Group, Mean, Report

POOLED = {metric: METRICS[metric] for metric in ("rouge_l", "exact_match")}
"""What pooled instances are shown by: every answer has both."""


def percent(estimate: Estimate | None) -> str:
    """A score in percent with its interval.

    >>> percent(Estimate(0.5, 0.4125, 0.6, 100))
    '50.0 [41.2, 60.0]'
    """
    if estimate is None:
        return "no tasks"
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def plain(name: str) -> str:
    """A level as people write it."""
    return name.replace("_", " ") if name in LEVELS else name


def metric_name(metric: str) -> str:
    """A metric as people write it: ROUGE-L, exact match, accuracy."""
    return "ROUGE-L" if metric == "rouge_l" else metric.replace("_", " ")


def plural(count: int, name: str) -> str:
    """A number of things.

    >>> plural(1, "shot"), plural(1500, "task")
    ('1 shot', '1,500 tasks')
    """
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def label(cell: Cell) -> str:
    """What a cell is called.

    >>> label(Cell("level", "fully_held_out", shots=5))
    'fully held out, 5 shots'
    """
    what = {
        "selection": "selection score",
        "average": "average",
        "level": plain(cell.level or ""),
        "column": f"{cell.name} ({plain(cell.level or '')})",
        "task": cell.name,
    }[cell.kind]
    return what if cell.shots is None else f"{what}, {plural(cell.shots, 'shot')}"


def unscored(report: Report) -> str | None:
    """What to say of examples that are missing in every mean."""
    if not report.unscored:
        return None
    scored = sum(group.instances for group in report.overall)
    return f"{report.unscored} of {report.unscored + scored} examples were not asked."


def headline(report: Report) -> list[Mean]:
    """OPT-IML's averages: the selection score, and each number of shots."""
    selection = [report.selection] if report.selection and len(report.averages) > 1 else []
    return [*report.averages, *selection]


def _row(group: Group, several_shots: bool) -> list[str]:
    name = plain(group.name) + (f", {plural(group.shots, 'shot')}" if several_shots else "")
    return [name, str(group.tasks), str(group.instances), *(percent(group.estimates.get(metric)) for metric in POOLED)]


def _overall(report: Report) -> list[Group]:
    return report.overall or [Group("overall", 0, "", 0, {})]


def render_terminal(report: Report, title: str) -> Table:
    """The levels and the overall scores, for a terminal."""
    # Without vertical lines it fits 80 columns, which is also what a SLURM log is given.
    title = f"{title}: percent, 95% intervals"
    table = Table("level", title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
    for column in ("tasks", "instances", *POOLED.values()):
        table.add_column(column, justify="right")
    several = len(report.overall) > 1
    for group in report.levels:
        table.add_row(*map(escape, _row(group, several)))
    table.add_section()
    for group in _overall(report):
        table.add_row(*map(escape, _row(group, several)))
    lines = [
        f"{label(mean.cell)}: {percent(mean.estimate)} over {plural(mean.of, 'column')}"
        f"{incomplete(report.coverage, mean.cell)}"
        for mean in headline(report)
    ]
    table.caption = escape("\n".join([*lines, *filter(None, [unscored(report)])]))
    return table


def cell_text(text: str) -> str:
    """Text inside a Markdown table: no markup, no new column, no new line.

    >>> cell_text("a|b <b>")
    'a\\\\|b &lt;b&gt;'
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\\", "\\\\")
    for mark in "|`*_[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, its cells escaped."""
    lines = [f"| {' | '.join(map(cell_text, head))} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(map(cell_text, row))} |" for row in rows), ""]


def render_markdown(report: Report, title: str) -> str:
    """The whole report of one system as Markdown."""
    over = "bootstrap intervals over instances" if report.runs == 1 else f"t-intervals over {report.runs} runs"
    lines = [f"# {title}", "", f"Percent with 95% {over}.", ""]
    if missing := unscored(report):
        lines += [missing, ""]
    if report.coverage is not None:
        lines += _coverage_lines(report.coverage)
    several = len(report.overall) > 1
    pooled = ["", "tasks", "instances", *POOLED.values()]
    lines += ["## Levels of generalization", "", "Instances are pooled.", ""]
    lines += markdown_table(pooled, [_row(group, several) for group in [*report.levels, *_overall(report)]])
    lines += ["## Averages over category columns", "", "Subtypes make a task, tasks a column, columns a level.", ""]
    means = [*headline(report), *report.level_means, *report.columns]
    lines += markdown_table(
        ["", "mean of", "score"],
        [(label(m.cell) + incomplete(report.coverage, m.cell), str(m.of), percent(m.estimate)) for m in means],
    )
    if report.not_counted:
        lines += [f"Not counted in any column: {cell_text('; '.join(report.not_counted))}.", ""]
    for heading, groups in (("Categories", report.categories), ("Tasks", report.tasks)):
        lines += [f"## {heading}", "", "Instances are pooled; the last column is by the tasks' own metric.", ""]
        rows = [
            [*_row(group, several), metric_name(group.metric), percent(group.estimates["score"])] for group in groups
        ]
        lines += markdown_table([*pooled, "metric", "score"], rows)
    return "\n".join(lines)


def _coverage_lines(coverage: Coverage) -> list[str]:
    lines = ["## Coverage", "", cell_text(f"{coverage_sentence(coverage)} {LEVELS_SAID}"), ""]
    return [*lines, *markdown_table(HEAD, coverage_rows(coverage)), *markdown_table(TASK_HEAD, task_rows(coverage))]


def render_systems_markdown(found: SystemsReport, title: str) -> str:
    """Several systems: their averages, their differences, then each one's report."""
    names = [system.name for system in found.systems]
    by_cell = [
        {mean.cell: mean.estimate for mean in [*headline(s.report), *s.report.level_means, *s.report.columns]}
        for s in found.systems
    ]
    every = list(dict.fromkeys(cell for cells in by_cell for cell in cells))
    lines = [f"# {title}", ""]
    if len(names) > 1:
        rows = [[label(cell), *(percent(cells.get(cell)) for cells in by_cell)] for cell in every]
        lines += ["Percent with 95% intervals.", "", *markdown_table(["", *names], rows)]
    for comparison in found.comparisons:
        lines += _comparison_lines(comparison)
    for system in found.systems:
        lines += [render_markdown(system.report, system.name).replace("\n#", "\n##").replace("# ", "## ", 1)]
    return "\n".join(lines)


def _comparison_lines(comparison: Comparison) -> list[str]:
    rows = [
        [label(c.cell), f"{100 * c.difference.mean:+.1f}", interval_text(c.difference), f"{c.difference.p:.3f}"]
        for c in comparison.contrasts
        if c.cell.kind != "task"
    ]
    return [
        f"## {cell_text(comparison.other)} against {cell_text(comparison.base)}",
        "",
        shared_text(comparison),
        "",
        *markdown_table(["", "difference", "95% interval", "p"], rows),
    ]


def interval_text(found: Difference) -> str:
    """The ends of a difference's interval, in points."""
    return f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def shared_text(comparison: Comparison) -> str:
    """What a comparison is made on, and what it leaves out."""
    left_out = [
        f"{count:,} that only {name} answered"
        for count, name in ((comparison.only_base, comparison.base), (comparison.only_other, comparison.other))
        if count
    ]
    said = f"Paired bootstrap over the {comparison.shared:,} instances that both answered"
    return f"{said}; left out: {' and '.join(left_out)}." if left_out else f"{said}."
