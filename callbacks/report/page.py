"""The report as one HTML page: no script, nothing fetched, readable on a screen, on paper and by a screen reader."""

from collections.abc import Sequence
from functools import partial

from ...lightning_modules.evaluation.aggregation import grouped
from .charts import COLORS
from .comparison import System, SystemsReport
from .coverage_text import incomplete
from .instruction_figures import instruction_figures
from .markup import Markup, element, join
from .page_parts import score, table
from .page_scores import comparison_section, coverage_section, levels_section, pooled_section, shots_section
from .page_style import STYLE
from .page_tasks import readings_section, tasks_section
from .text import headline, label, plural, unscored


def render_page(found: SystemsReport, title: str) -> str:
    """The whole page.

    Raises:
        ValueError: There are more systems than colors.
    """
    if len(found.systems) > len(COLORS):
        raise ValueError(f"a page holds {len(COLORS)} systems at most, got {len(found.systems)}: report fewer at once")
    sections = [
        ("summary", "Summary", _summary(found)),
        ("coverage", "Coverage", join(coverage_section(system) for system in found.systems)),
        ("levels", "Levels and categories", levels_section(found)),
        ("shots", "Shots", shots_section(found)),
        ("differences", "Differences", join(comparison_section(comparison, found) for comparison in found.comparisons)),
        ("official", "Pooled instances", pooled_section(found)),
        ("tasks", "Tasks", tasks_section(found)),
        ("instructions", "Learned instructions", instruction_figures(found.systems)),
        ("readings", "Predictions to read", readings_section(found)),
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
        cells: list[object] = [score(of_system[cell].estimate if cell in of_system else None) for cell in every]
        for k in shots:
            cells += [score(overall.get(k, {}).get(metric)) for metric in ("rouge_l", "exact_match")]
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
            table(head, rows),
        ]
    )


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
