"""Sections of the report's page about scores of groups: coverage, levels, shots, differences, pooled instances."""

from collections.abc import Mapping

from ...datamodules.schema import LEVELS
from ...lightning_modules.evaluation.aggregation import Cell
from ...lightning_modules.evaluation.significance import Estimate
from .charts import COLORS, Line, Row, bars, differences, lines
from .comparison import Comparison, System, SystemsReport
from .coverage_text import HEAD, LEVELS_SAID, TASK_HEAD, coverage_rows, coverage_sentence, incomplete, task_rows
from .markup import Markup, element, join
from .page_parts import details, figure, score, table
from .scores import Group
from .text import headline, interval_text, label, metric_name, plain, plural, shared_text

LEVEL_MEANING = {
    "fully_supervised": "Tasks that were trained on, with instances that were not.",
    "partially_supervised": "Tasks that were not trained on, of categories that were.",
    "fully_held_out": "Categories that were not trained on.",
}


def coverage_section(system: System) -> Markup:
    """What of a table's tasks was run; nothing where no table was listed."""
    coverage = system.report.coverage
    if coverage is None:
        return Markup()
    whole = not coverage.missing()
    return join(
        [
            element("h3", system.name),
            element("p", coverage_sentence(coverage), class_="pale" if whole else "missing"),
            table(HEAD, coverage_rows(coverage)),
            details("Task by task", table(TASK_HEAD, task_rows(coverage), text=(1, 5))),
        ]
    )


def levels_section(found: SystemsReport) -> Markup:
    """For each level a chart of its columns."""
    parts = []
    coverages = [system.report.coverage for system in found.systems]
    if any(coverages):
        parts.append(element("p", LEVELS_SAID, class_="pale"))
    for level in LEVELS:
        cells = _cells(found, lambda cell, level=level: cell.kind == "column" and cell.level == level)
        if not cells and all(coverage and not coverage.of_level(level) for coverage in coverages):
            continue  # the table lists none
        parts.append(element("h3", plain(level).capitalize(), *_level_scores(found, level)))
        parts.append(element("p", LEVEL_MEANING[level], class_="pale"))
        if not cells:
            parts.append(element("p", "No tasks of this level were evaluated.", class_="missing"))
            continue
        if lost := list(dict.fromkeys(name for each in coverages if each for name in each.missing_columns(level))):
            parts.append(element("p", f"Missing: {', '.join(lost)}.", class_="missing"))
        of = {mean.cell: mean.of for system in found.systems for mean in system.report.columns}
        several = len({cell.shots for cell in cells}) > 1

        def tasks(cell: Cell, of: Mapping[Cell, int] = of) -> str:
            lacks = [
                incomplete(system.report.coverage, cell).removeprefix(" — incomplete: ") for system in found.systems
            ]
            return "; ".join([plural(of[cell], "task"), *dict.fromkeys(filter(None, lacks))])

        rows = [Row(_column_name(cell, several), tasks(cell), _estimates(found, cell)) for cell in cells]
        title = f"{plain(level).capitalize()}: scores by {found.by}"
        parts.append(figure(bars(rows, title), f"Mean over the tasks of each {found.by}, percent."))
    not_counted = list(dict.fromkeys(name for system in found.systems for name in system.report.not_counted))
    if not_counted:
        said = f"Not counted in any column, as in the paper: {'; '.join(not_counted)}."
        parts.append(element("p", said, class_="pale"))
    return join(parts)


def _column_name(cell: Cell, several: bool) -> str:
    return f"{cell.name}, {plural(cell.shots or 0, 'shot')}" if several else cell.name


def _level_scores(found: SystemsReport, level: str) -> list[object]:
    """The level's means, beside its heading."""
    said = []
    for cell in _cells(found, lambda cell: cell.kind == "level" and cell.level == level):
        scores = " / ".join("–" if e is None else f"{100 * e.mean:.1f}" for e in _estimates(found, cell))
        said.append(f"{scores} at {plural(cell.shots or 0, 'shot')}")
    return [element("span", f" — mean {', '.join(said)}", class_="pale")] if said else []


def shots_section(found: SystemsReport) -> Markup:
    """How scores change with the number of demonstrations."""
    cells = _cells(found, lambda cell: cell.kind in ("level", "average"))
    shots = sorted({cell.shots for cell in cells if cell.shots is not None})
    if not shots:
        return Markup()
    if len(shots) == 1:
        return element("p", f"Every prompt was asked with {plural(shots[0], 'demonstration')}.", class_="pale")
    kinds = list(dict.fromkeys((cell.kind, cell.level) for cell in cells))
    by_system = [_by_cell(system) for system in found.systems]
    panels = [
        (
            plain(level).capitalize() if level else "Average",
            [Line([scores.get(Cell(kind, level, shots=k)) for k in shots]) for scores in by_system],
        )
        for kind, level in kinds
    ]
    rows = [[label(cell), *(score(estimate) for estimate in _estimates(found, cell))] for cell in cells]
    chart = lines(panels, shots, "Scores over the number of shots")
    numbers = table(["", *(system.name for system in found.systems)], rows)
    return figure(chart, "Scores over the number of demonstrations in the prompt, percent.", numbers)


def comparison_section(comparison: Comparison, found: SystemsReport) -> Markup:
    """What one system gains over another, group by group."""
    names = [system.name for system in found.systems]
    color = COLORS[names.index(comparison.other)]
    shown = [contrast for contrast in comparison.contrasts if contrast.cell.kind != "task"]
    tasks = [contrast for contrast in comparison.contrasts if contrast.cell.kind == "task"]
    apart = sum(c.difference.low > 0 or c.difference.high < 0 for c in tasks)
    rows = [
        [
            label(c.cell),
            f"{100 * c.difference.mean:+.1f}",
            interval_text(c.difference),
            f"{c.difference.p:.3f}",
            str(c.of),
        ]
        for c in comparison.contrasts
    ]
    title = f"{comparison.other} against {comparison.base}"
    said = (
        f"{shared_text(comparison)} A dot is full where the 95% interval leaves out 0. p-values are of single "
        f"comparisons: of {len(tasks)} tasks, {apart} differ by their own interval, where chance alone would make "
        f"{max(round(len(tasks) / 20), 1)} seem to. The bootstrap says what other instances would change, not another "
        "training seed."
    )
    numbers = table(["", "difference", "95% interval", "p", "mean of"], rows)
    chart = differences([(label(c.cell), c.difference) for c in shown], title, color)
    return join([element("h3", title), element("p", said, class_="pale"), figure(chart, "Points of percent.", numbers)])


def pooled_section(found: SystemsReport) -> Markup:
    """Super-NaturalInstructions' official scores: each category by its headline metric, and the levels."""
    groups: dict[tuple[str, int, str], list[Group | None]] = {}
    for place, system in enumerate(found.systems):
        for group in [*system.report.categories, *system.report.levels]:
            if group.estimates:
                key = (plain(group.name), group.shots, group.metric)
                groups.setdefault(key, [None] * len(found.systems))[place] = group
    rows = []
    for (name, shots, metric), of_systems in groups.items():
        first = next(group for group in of_systems if group)
        scores = [score(group.estimates["score"] if group else None) for group in of_systems]
        rows.append([name, metric_name(metric), str(shots), str(first.tasks), f"{first.instances:,}", *scores])
    said = "Instances of a category are pooled and scored by its headline metric, then those of a level."
    head = ["", "metric", "shots", "tasks", "instances", *(system.name for system in found.systems)]
    return join([element("p", said, class_="pale"), table(head, rows, text=(1,))])


def _by_cell(system: System) -> dict[Cell, Estimate]:
    report = system.report
    return {mean.cell: mean.estimate for mean in [*headline(report), *report.level_means, *report.columns]}


def _cells(found: SystemsReport, wanted: object) -> list[Cell]:
    """Cells that any system has, in order."""
    every = dict.fromkeys(cell for system in found.systems for cell in _by_cell(system))
    return [cell for cell in every if wanted(cell)]  # type: ignore[operator]


def _estimates(found: SystemsReport, cell: Cell) -> list[Estimate | None]:
    return [_by_cell(system).get(cell) for system in found.systems]
