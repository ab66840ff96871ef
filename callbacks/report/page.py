"""The report as one HTML page that loads and runs nothing, readable on screens, on paper and by screen readers.

The templates in ``templates/`` hold the page's text. Everything they insert is escaped, and hidden characters are
written as their code points, since predictions come from models, and prompts and references from data sets.
"""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...datamodules.messages import counted
from ...datamodules.schema import LEVELS
from ...datamodules.visible_text import visible
from ...lightning_modules.evaluation.aggregation import grouped
from .comparison import Comparison, System, SystemsReport
from .coverage_text import LEVELS_NOTE, coverage_sentence, incomplete_note
from .learned_instructions import instruction_analyses
from .page_figures import ReportFigure, cells_of_kind, difference_name, report_figures, shot_counts
from .page_tables import (
    columns_table,
    coverage_tables,
    difference_table,
    level_means_text,
    pooled_table,
    published_table,
    shots_table,
    summary_table,
    task_table,
)
from .published_scores import PublishedComparison
from .score_limits import limits_text
from .text import (
    cell_name,
    intervals_text,
    level_name,
    metric_name,
    overall_means,
    shared_instances_text,
    unscored_text,
)

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_TEXT = 4000  # characters of a prompt or a prediction on the page; the middle of a longer one is left out

LEVEL_MEANING = {
    "fully_supervised": "Training tasks, evaluated on instances that were not trained on.",
    "partially_supervised": "Tasks that were not trained on, of categories that were trained on.",
    "fully_held_out": "Tasks of categories that were not trained on.",
}


def render_page(
    report: SystemsReport,
    title: str,
    figures: Sequence[ReportFigure] | None = None,
    published: PublishedComparison | None = None,
) -> str:
    """Return the generalization report as an HTML page.

    Args:
        report: Scores, comparisons and qualitative examples.
        title: Heading of the page.
        figures: Figures of the report; None to draw them.
        published: Scores of a paper beside those of the systems; None for none.

    Raises:
        ValueError: There are more systems than a figure shows.
    """
    analyses = instruction_analyses(report.systems)
    drawn = report_figures(report) if figures is None else figures
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            report=report,
            sections=_sections(report, bool(analyses), published is not None),
            figures={figure.name: {"caption": figure.caption, "svg": Markup(figure.svg())} for figure in drawn},
            figure_titles={figure.name: figure.title for figure in drawn},
            analyses=analyses,
            published=published and {"note": published.note, "table": published_table(published)},
            **_texts(report),
            **_tables(report),
        )
    )


def _sections(report: SystemsReport, has_instructions: bool, has_published: bool) -> dict[str, str]:
    """Headings of the sections that have content, by the name of their template."""
    sections = {
        "summary": ("Summary", True),
        "published": ("Published scores", has_published),
        "coverage": ("Coverage", any(system.report.coverage for system in report.systems)),
        "levels": ("Levels and categories", True),
        "shots": ("Shots", bool(shot_counts(report))),
        "differences": ("Differences", bool(report.comparisons)),
        "pooled": ("Pooled instances", True),
        "tasks": ("Tasks", True),
        "instructions": ("Learned instructions", has_instructions),
        "examples": ("Qualitative examples", bool(report.examples)),
    }
    return {name: heading for name, (heading, has_content) in sections.items() if has_content}


def _texts(report: SystemsReport) -> dict[str, Any]:
    """Sentences of the page."""
    return {
        "evaluated": _evaluated(report),
        "unscored": unscored_text(report.systems[0].report),
        "limits": list(dict.fromkeys(text for system in report.systems for text in limits_text(system.report))),
        "incomplete": [line for system in report.systems for line in _incomplete_lines(system)],
        "levels_note": LEVELS_NOTE if any(system.report.coverage for system in report.systems) else "",
        "not_counted": list(dict.fromkeys(name for system in report.systems for name in system.report.not_counted)),
        "percent_intervals": intervals_text([system.report for system in report.systems]),
        "intervals": {system.name: _interval_text(system) for system in report.systems},
    }


def _tables(report: SystemsReport) -> dict[str, Any]:
    """Tables of the page, with the texts beside them."""
    return {
        "summary": summary_table(report),
        "coverages": [_coverage(system) for system in report.systems if system.report.coverage],
        "levels": [level for level in map(partial(_level, report), LEVELS) if level],
        "shots": shot_counts(report),
        "shots_table": shots_table(report),
        "comparisons": [_comparison(comparison, report) for comparison in report.comparisons],
        "pooled": pooled_table(report),
        "tasks": task_table(report),
    }


@cache
def environment() -> Environment:
    """Return jinja2's environment for pages: it escapes, shows hidden characters, and finds the templates."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "counted": counted,
        "level_name": level_name,
        "metric_name": metric_name,
        "middle_left_out": middle_left_out,
    }
    return templates


def _visible_value(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def middle_left_out(text: str) -> str:
    """Return a text; of one longer than `LONGEST_TEXT` characters, the middle is replaced by a note."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters are left out here …]\n{text[-half:]}"


def _evaluated(report: SystemsReport) -> str:
    counts = [
        ", ".join(counted(*count) for count in ((g.tasks, "task"), (g.instances, "instance"), (g.shots, "shot")))
        for g in report.systems[0].report.overall
    ]
    return "; ".join(counts) or "nothing was scored"


def _incomplete_lines(system: System) -> list[str]:
    """Return a sentence for each kind of missing tasks, with the averages that lack them."""
    cells = [mean.cell for mean in overall_means(system.report)]
    notes = grouped(cells, partial(incomplete_note, system.report.coverage))
    return [f"{system.name}: {', '.join(map(cell_name, lacking))}{note}." for note, lacking in notes.items() if note]


def _coverage(system: System) -> dict[str, Any]:
    coverage = system.report.coverage
    assert coverage is not None
    columns, tasks = coverage_tables(coverage)
    complete = not coverage.missing()
    return {
        "name": system.name,
        "sentence": coverage_sentence(coverage),
        "complete": complete,
        "columns": columns,
        "tasks": tasks,
    }


def _level(report: SystemsReport, level: Any) -> dict[str, Any] | None:
    """Return a level's texts and table; None if every evaluated table lists no task of it."""
    cells = cells_of_kind(report, "column", level)
    coverages = [system.report.coverage for system in report.systems]
    if not cells and all(coverage and not coverage.of_level(level) for coverage in coverages):
        return None
    missing = [name for coverage in coverages if coverage for name in coverage.missing_columns(level)]
    return {
        "level": level,
        "meaning": LEVEL_MEANING[level],
        "means": level_means_text(report, level),
        "missing": list(dict.fromkeys(missing)),
        "table": columns_table(report, level) if cells else None,
    }


def _comparison(comparison: Comparison, report: SystemsReport) -> dict[str, Any]:
    tasks = [row.difference for row in comparison.differences if row.cell.kind == "task"]
    return {
        "figure": difference_name(comparison, report),
        "shared": shared_instances_text(comparison),
        "tasks": len(tasks),
        "significant": sum(difference.low > 0 or difference.high < 0 for difference in tasks),
        "table": difference_table(comparison),
    }


def _interval_text(system: System) -> str:
    if system.report.runs == 1:
        return "95% bootstrap over the instances of each task; tasks are not resampled"
    return f"95% t-interval over {system.report.runs} runs, whose scores are the dots"
