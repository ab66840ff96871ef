"""Summary of stored, skipped and cut examples and of the mixture, printed before training."""

import json

import lightning as L
from lightning import Callback
from rich.console import Console
from rich.table import Table

from ..datamodules.mixture.mixture_report import MixtureReport
from ..datamodules.packing.packing_report import PackingReport
from .run_folder import run_folder


class PackingSummary(Callback):
    """Print how many examples are stored, skipped and cut, how full the rows are, and the mixture's benchmarks.

    The numbers are written to packing.json, the mixture with its tasks to mixture.txt.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        report = getattr(trainer.datamodule, "report", None)  # type: ignore[attr-defined]
        folder = run_folder(trainer, "")
        if report is None or not trainer.is_global_zero:
            return
        numbers: PackingReport = report()
        table = Table("Packing", "", title_justify="left")
        for what, how_much in numbers.lines():
            table.add_row(what, how_much)
        Console().print(table)
        (folder / "packing.json").write_text(json.dumps(dict(numbers.lines()), indent=1) + "\n")
        mixture: MixtureReport = trainer.datamodule.describe()  # type: ignore[attr-defined]
        Console(soft_wrap=True).print("\n".join(mixture.lines(depth=1)), markup=False, highlight=False)
        (folder / "mixture.txt").write_text("\n".join(mixture.lines()) + "\n")
