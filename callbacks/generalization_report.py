"""Write the generalization report when validation or test ends."""

import json
from dataclasses import asdict

import lightning as L
from lightning import Callback
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from .report import build_report, render_markdown, render_terminal
from .run_folder import run_folder


class GeneralizationReport(Callback):
    """Print scores at the three levels of generalization, and write report.json and report.md.

    It speaks after ``validate`` and ``test``; validation during ``fit`` only logs its means. The module holds the
    scores (``pl_module.scores``), the datamodule tells what was asked (``evaluation_examples(stage)``).

    Args:
        folder: Where to write; by default ``report/<stage>`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report(trainer, pl_module, "validation")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = run_folder(trainer, f"report/{stage}", self.folder)
        if not trainer.is_global_zero:
            return
        report = build_report(pl_module.scores, trainer.datamodule.evaluation_examples(stage))  # type: ignore[arg-type, attr-defined]
        title = f"Generalization report, {stage}"
        (folder / "report.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
        (folder / "report.md").write_text(render_markdown(report, title))
        console = Console()
        console.print(render_terminal(report, title))
        console.print(f"categories and tasks: {folder / 'report.md'}")
