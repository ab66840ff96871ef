"""The report as one HTML page: no script, nothing fetched, readable on a screen, on paper and by a screen reader."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from ...datamodules.schema import LEVELS
from ...lightning_modules.evaluation.aggregation import Cell, grouped
from ...lightning_modules.evaluation.metrics import Estimate
from .charts import COLORS, Line, Row, bars, differences, lines
from .comparison import Comparison, Reading, System, SystemsReport
from .coverage_text import HEAD, LEVELS_SAID, TASK_HEAD, coverage_rows, coverage_sentence, incomplete, task_rows
from .instruction_figures import instruction_figures
from .markup import Markup, element, escaped, join
from .page_style import STYLE
from .scores import Group
from .text import headline, interval_text, label, metric_name, plain, plural, shared_text, unscored

LONGEST_TEXT = 4000  # characters of a prompt or an answer that the page shows; the middle of a longer one is left out

LEVEL_MEANING = {
    "fully_supervised": "Tasks that were trained on, with instances that were not.",
    "partially_supervised": "Tasks that were not trained on, of categories that were.",
    "fully_held_out": "Categories that were not trained on.",
}


def render_page(found: SystemsReport, title: str) -> str:
    """The whole page.

    Raises:
        ValueError: There are more systems than colors.
    """
    if len(found.systems) > len(COLORS):
        raise ValueError(f"a page holds {len(COLORS)} systems at most, got {len(found.systems)}: report fewer at once")
    sections = [
        ("summary", "Summary", _summary(found)),
        ("coverage", "Coverage", join(_coverage(system) for system in found.systems)),
        ("levels", "Levels and categories", _levels(found)),
        ("shots", "Shots", _shots(found)),
        ("differences", "Differences", join(_comparison(comparison, found) for comparison in found.comparisons)),
        ("official", "Pooled instances", _pooled(found)),
        ("tasks", "Tasks", _tasks(found)),
        ("instructions", "Learned instructions", instruction_figures(found.systems)),
        ("readings", "Predictions to read", _readings(found)),
    ]
    shown = [section for section in sections if section[2]]
    body = join(
        [
            element("header", element("h1", title), _subtitle(found), _navigation(shown), _legend(found.systems)),
            element("main", *(element("section", element("h2", h, id=key), text) for key, h, text in shown)),
            element("footer", _how(found)),
        ]
    )
    # Even if a text slipped through unescaped, a browser would neither run nor fetch anything.
    policy = element(
        "meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"
    )
    head = join(
        [
            Markup('<meta charset="utf-8">'),
            Markup(policy.removesuffix("</meta>")),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", title),
            element("style", Markup(STYLE)),
        ]
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _subtitle(found: SystemsReport) -> Markup:
    report = found.systems[0].report
    counted = [
        ", ".join(plural(*count) for count in ((g.tasks, "task"), (g.instances, "instance"), (g.shots, "shot")))
        for g in report.overall
    ]
    said = f"Stage {found.stage}: {'; '.join(counted) or 'nothing was scored'}."
    missing = unscored(report)
    return join([element("p", said, class_="pale"), element("p", missing, class_="missing") if missing else Markup()])


def _coverage(system: System) -> Markup:
    """What of a table's tasks was run; nothing where no table was listed."""
    coverage = system.report.coverage
    if coverage is None:
        return Markup()
    whole = not coverage.missing()
    return join(
        [
            element("h3", system.name),
            element("p", coverage_sentence(coverage), class_="pale" if whole else "missing"),
            _table(HEAD, coverage_rows(coverage)),
            _details("Task by task", _table(TASK_HEAD, task_rows(coverage), text=(1, 5))),
        ]
    )


def _navigation(sections: Sequence[tuple[str, str, Markup]]) -> Markup:
    links = [element("a", heading, href=f"#{key}") for key, heading, _ in sections]
    return element("nav", *links, aria_label="Sections")


def _legend(systems: Sequence[System]) -> Markup:
    if len(systems) == 1:
        return Markup()
    return element(
        "ul",
        *(
            element("li", element("i", style=f"background:{color}"), f"{system.name}{_repeats(system)}")
            for system, color in zip(systems, COLORS, strict=False)
        ),
        class_="legend",
    )


def _repeats(system: System) -> str:
    return f" ({len(system.runs)} runs)" if len(system.runs) > 1 else ""


def _summary(found: SystemsReport) -> Markup:
    """A line for each system: its averages, and both metrics over pooled instances."""
    means = [{mean.cell: mean for mean in headline(system.report)} for system in found.systems]
    every = list(dict.fromkeys(cell for of_system in means for cell in of_system))
    shots = sorted({group.shots for system in found.systems for group in system.report.overall})
    head = ["", *(label(cell) for cell in every)]
    for k in shots:
        at = f", {plural(k, 'shot')}" if len(shots) > 1 else ""
        head += [f"ROUGE-L{at}", f"exact match{at}"]
    rows: list[list[object]] = []
    lacking: list[str] = []
    for system, of_system in zip(found.systems, means, strict=True):
        overall = {group.shots: group.estimates for group in system.report.overall}
        cells: list[object] = [_score(of_system[cell].estimate if cell in of_system else None) for cell in every]
        for k in shots:
            cells += [_score(overall.get(k, {}).get(metric)) for metric in ("rouge_l", "exact_match")]
        rows.append([system.name + _repeats(system), *cells])
        lacks = grouped(of_system, partial(incomplete, system.report.coverage))
        lacking += [f"{system.name}: {', '.join(map(label, lack))}{said}." for said, lack in lacks.items() if said]
    said = (
        "Averages are OPT-IML's: subtypes make a task, a task of several benchmarks is one, tasks make a column, and "
        "columns are averaged, each by its tasks' own metric. ROUGE-L and exact match are over all instances, as "
        "Super-NaturalInstructions is scored. Percent, with 95% intervals."
    )
    return join(
        [
            element("p", said, class_="pale"),
            *(element("p", text, class_="missing") for text in lacking),
            _table(head, rows),
        ]
    )


def _levels(found: SystemsReport) -> Markup:
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
        parts.append(_figure(bars(rows, title), f"Mean over the tasks of each {found.by}, percent."))
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


def _shots(found: SystemsReport) -> Markup:
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
    rows = [[label(cell), *(_score(estimate) for estimate in _estimates(found, cell))] for cell in cells]
    chart = lines(panels, shots, "Scores over the number of shots")
    table = _table(["", *(system.name for system in found.systems)], rows)
    return _figure(chart, "Scores over the number of demonstrations in the prompt, percent.", table)


def _comparison(comparison: Comparison, found: SystemsReport) -> Markup:
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
    table = _table(["", "difference", "95% interval", "p", "mean of"], rows)
    chart = differences([(label(c.cell), c.difference) for c in shown], title, color)
    return join([element("h3", title), element("p", said, class_="pale"), _figure(chart, "Points of percent.", table)])


def _pooled(found: SystemsReport) -> Markup:
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
        scores = [_score(group.estimates["score"] if group else None) for group in of_systems]
        rows.append([name, metric_name(metric), str(shots), str(first.tasks), f"{first.instances:,}", *scores])
    said = "Instances of a category are pooled and scored by its headline metric, then those of a level."
    head = ["", "metric", "shots", "tasks", "instances", *(system.name for system in found.systems)]
    return join([element("p", said, class_="pale"), _table(head, rows, text=(1,))])


def _tasks(found: SystemsReport) -> Markup:
    """Bars for every task, level by level, the best first."""
    groups: dict[tuple[str, str, int], list[Group | None]] = {}
    for place, system in enumerate(found.systems):
        for group in system.report.tasks:
            key = (group.level, group.name, group.shots)
            groups.setdefault(key, [None] * len(found.systems))[place] = group
    several = len({shots for _, _, shots in groups}) > 1
    parts = []
    for level in (*LEVELS, "mixed"):
        of_level = {key: found for key, found in groups.items() if key[0] == level}
        if not of_level:
            continue
        ordered = sorted(of_level, key=lambda key: (-_first(of_level[key]).estimates["score"].mean, key))
        rows = [
            Row(
                f"{name}, {plural(shots, 'shot')}" if several else name,
                "",
                [group.estimates["score"] if group else None for group in of_level[_, name, shots]],
            )
            for _, name, shots in ordered
        ]
        title = f"{plain(level).capitalize()}: {plural(len({name for _, name, _ in ordered}), 'task')}"
        parts += [element("h3", title), _figure(bars(rows, title), "Each by its own metric, percent.", long=True)]
    return join([*parts, _details("All tasks as a table", _task_table(found))])


def _first(groups: Iterable[Group | None]) -> Group:
    return next(group for group in groups if group)


def _task_table(found: SystemsReport) -> Markup:
    rows = [
        [
            group.name,
            group.category,
            system.name,
            group.metric.replace("_", " "),
            str(group.shots),
            str(group.instances),
        ]
        + [_score(group.estimates[metric]) for metric in ("rouge_l", "exact_match")]
        for system in found.systems
        for group in system.report.tasks
    ]
    head = ["task", "category", "system", "metric", "shots", "instances", "ROUGE-L", "exact match"]
    return _table(head, rows, text=(1, 2, 3))


def _readings(found: SystemsReport) -> Markup:
    parts = []
    for heading, chosen in found.readings.items():
        parts.append(element("h3", heading))
        parts += [_reading(reading) for reading in chosen]
    if parts:
        said = "One instance of a task at most, as the model was asked and as it answered; scores by the task's metric."
        parts.insert(0, element("p", said, class_="pale"))
    return join(parts)


def _reading(reading: Reading) -> Markup:
    where = (
        f"{plain(reading.level)} · {reading.category} · {plural(reading.shots, 'shot')} · instance {reading.id} · "
        f"scored by {metric_name(reading.metric)}"
    )
    answers = [
        join([element("dt", f"{name}: {100 * reading.scores[name]:.1f}"), element("dd", _pre(answer or "(nothing)"))])
        for name, answer in reading.answers.items()
    ]
    expected = list(dict.fromkeys(reading.references))
    return element(
        "article",
        element("h4", reading.task),
        element("p", where, class_="where"),
        element(
            "dl",
            element("dt", "prompt"),
            element("dd", _pre(reading.prompt, class_="prompt", tabindex="0")),
            element("dt", "expected"),
            element("dd", *(_pre(reference) for reference in expected)),
            *answers,
        ),
    )


def _pre(text: str, **attributes: object) -> Markup:
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half:,} characters are left out here …]\n{text[-half:]}"
    return element("pre", text, dir="auto", **attributes)


def _how(found: SystemsReport) -> Markup:
    runs = [
        element("li", f"{system.name}: ", ", ".join(system.runs), f" — intervals: {_interval_kind(system)}")
        for system in found.systems
    ]
    return element("ul", *runs)


def _interval_kind(system: System) -> str:
    if system.report.runs == 1:
        return "95% bootstrap over the instances of each task; the tasks stay"
    return f"95% t-interval over {system.report.runs} runs, whose own scores are the dots"


def _by_cell(system: System) -> dict[Cell, Estimate]:
    report = system.report
    return {mean.cell: mean.estimate for mean in [*headline(report), *report.level_means, *report.columns]}


def _cells(found: SystemsReport, wanted: object) -> list[Cell]:
    """Cells that any system has, in order."""
    every = dict.fromkeys(cell for system in found.systems for cell in _by_cell(system))
    return [cell for cell in every if wanted(cell)]  # type: ignore[operator]


def _estimates(found: SystemsReport, cell: Cell) -> list[Estimate | None]:
    return [_by_cell(system).get(cell) for system in found.systems]


def _score(estimate: Estimate | None) -> Markup:
    if estimate is None:
        return element("span", "–", class_="pale")
    low, high = 100 * estimate.low, 100 * estimate.high
    return join([element("b", f"{100 * estimate.mean:.1f}"), " ", element("small", f"[{low:.1f}, {high:.1f}]")])


def _figure(chart: Markup, caption: str, table: Markup | None = None, *, long: bool = False) -> Markup:
    numbers = [_details("The numbers", table)] if table is not None else []
    return element("figure", element("figcaption", caption), chart, *numbers, class_="long" if long else None)


def _details(summary: str, content: Markup) -> Markup:
    return element("details", element("summary", summary), content)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], text: Sequence[int] = ()) -> Markup:
    """A table whose first column names its rows; columns in `text` are set as text rather than as numbers."""

    def of(place: int) -> str | None:
        return "text" if place in text else None

    heads = element("tr", *(element("th", said, scope="col", class_=of(i)) for i, said in enumerate(head)))
    lines_ = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=of(i)) for i, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    ]
    table = element("table", element("thead", heads), element("tbody", *lines_))
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=escaped(head[0] or "Scores"))
