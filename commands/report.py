"""Report one run or compare several by their predictions, as HTML, Markdown and JSON.

It reads the files of the callback PredictionWriter, and needs neither a model nor a GPU. The other runs are compared
with the first one. NAME=FOLDER names a run; FOLDER,FOLDER are repetitions of one run with other seeds.

Example:
    crosstask report runs/quickstart
    crosstask report base=runs/a,runs/b ours=runs/c,runs/d --stage validation --folder report
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from ..callbacks.report.comparison import SystemsReport
from ..callbacks.report.page import render_page
from ..callbacks.report.page_figures import report_figures
from ..callbacks.report.published_scores import PublishedComparison
from ..callbacks.report.systems import parse_systems, read_system, systems_report
from ..callbacks.report.text import render_systems_markdown
from ..datamodules.atomic_files import write_whole
from ..datamodules.messages import expanded
from .shared.function_command import run_function
from .shared.outputs import require_own_report


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(write_report, words)


def write_report(
    runs: list[str],
    stage: str = "test",
    folder: str = "report",
    by: Literal["category", "benchmark"] = "category",
    title: str | None = None,
    examples: int = 5,
) -> None:
    """Report one run or compare several by their predictions; this needs neither a model nor a GPU.

    Args:
        runs: Folders of runs; the others are compared with the first. NAME=FOLDER gives a run a name. FOLDER,FOLDER are
            repetitions of one run with other seeds, reported together.
        stage: Predictions to read: ``test``, ``validation`` or ``predict``.
        folder: Folder into which report.html, report.md, report.json and figures/ (PDF and PNG) are written.
        by: Columns over which scores are averaged: ``category``, as in most tables of OPT-IML, or ``benchmark``.
        title: Heading of the page; by default it names the runs.
        examples: Number of examples in each list: lowest scores, highest scores, largest differences.
    """
    target = expanded(folder)
    require_own_report(target, ("systems", "comparisons"), "report")
    named = parse_systems(runs)
    systems = [read_system(name, folders, stage) for name, folders in named.items()]
    report = systems_report(systems, stage=stage, by=by, examples=examples)
    write_report_files(report, target, title or f"Generalization report: {' and '.join(named)}")
    print(target / "report.html")


def write_report_files(
    report: SystemsReport, folder: Path, title: str, published: PublishedComparison | None = None
) -> None:
    """Write a report as report.html, report.md and report.json, and its figures as PDF and PNG in ``figures/``.

    Args:
        report: The report.
        folder: Folder of the files.
        title: Heading of the page.
        published: Scores of a paper, which the page shows beside those of the systems; None for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = report_figures(report)
    write_whole(
        folder / "report.json", json.dumps(asdict(report), indent=1) + "\n"
    )  # first: it marks the others as ours
    write_whole(folder / "report.md", render_systems_markdown(report, title))
    write_whole(folder / "report.html", render_page(report, title, figures, published))
    for figure in figures:
        figure.write(folder / "figures", ("pdf", "png"))
