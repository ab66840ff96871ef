"""``crosstask report``: an HTML page, Markdown and JSON from the predictions of one run or of several."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from ..callbacks.report.comparison import SystemsReport
from ..callbacks.report.page import render_page
from ..callbacks.report.systems import name_runs, read_system, systems_report
from ..callbacks.report.text import render_systems_markdown


def write_report(
    runs: list[str],
    stage: str = "test",
    folder: str = "report",
    by: Literal["category", "benchmark"] = "category",
    title: str | None = None,
    readings: int = 5,
) -> None:
    """Report one run or compare several by their predictions; this needs neither a model nor a GPU.

    Args:
        runs: Folders of runs, the first of them the one that others are compared with. NAME=FOLDER gives a run a name.
            FOLDER,FOLDER are repetitions of one run with other seeds, reported together.
        stage: Which predictions are read: test, validation or predict.
        folder: Where report.html, report.md and report.json are written.
        by: What a column of the averages is: a category, as in most tables of OPT-IML, or a benchmark.
        title: Heading of the page.
        readings: Predictions to read under each heading, the worst, the best and those that differ most.
    """
    named = name_runs(runs)
    systems = [read_system(name, folders, stage) for name, folders in named.items()]
    found = systems_report(systems, stage=stage, by=by, readings=readings)
    write_pages(found, Path(folder), title or f"Generalization report: {' and '.join(named)}")
    print(Path(folder) / "report.html")


def write_pages(found: SystemsReport, folder: Path, title: str) -> None:
    """report.html, report.md and report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(render_page(found, title), encoding="utf-8")
    (folder / "report.md").write_text(render_systems_markdown(found, title), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
