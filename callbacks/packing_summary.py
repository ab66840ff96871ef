"""Callback that prints the numbers of stored, skipped and truncated examples, and the mixture, before training."""

import json
from typing import Any

import lightning as L
from lightning import Callback
from rich.console import Console
from rich.table import Table

from ..datamodules.atomic_files import write_whole
from ..datamodules.base import run_data
from ..datamodules.packing.packing_report import PackingReport
from ..datamodules.schema import ReportLines
from ..datamodules.visible_text import visible
from .run_folder import run_folder


def _unknown_by_task(report: ReportLines) -> dict[str, Any]:
    """Return the counts of unknown tokens by task; empty if the report is of examples that are not stored."""
    if not isinstance(report, PackingReport):
        return {}
    return {"unknown tokens by task": {name: counts._asdict() for name, counts in report.unknown.items()}}


class PackingSummary(Callback):
    """Print how many examples are stored, skipped and truncated, how full the rows are, and the mixture's benchmarks.

    The numbers are written to packing.json, the mixture with all of its tasks to mixture.txt, in the run's folder.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder, data = run_folder(trainer, ""), run_data(trainer)
        if data is None or not trainer.is_global_zero:
            return
        report = data.report()
        lines = report.lines()
        table = Table("Training data", "", title_justify="left")
        for quantity, value in lines:
            table.add_row(quantity, value)
        Console().print(table)
        write_whole(folder / "packing.json", json.dumps({**dict(lines), **_unknown_by_task(report)}, indent=1) + "\n")
        mixture = data.describe()
        Console(soft_wrap=True).print(visible("\n".join(mixture.lines(depth=1))), markup=False, highlight=False)
        write_whole(folder / "mixture.txt", "\n".join(mixture.lines()) + "\n")
