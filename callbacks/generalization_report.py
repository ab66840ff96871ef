"""Callback that writes the generalization report when a validation or test ends."""

import json
from dataclasses import asdict

import lightning as L
from lightning import Callback
from rich.console import Console

from ..datamodules.atomic_files import write_whole
from ..datamodules.base import run_data
from ..datamodules.schema import Stage
from ..datamodules.visible_text import terminal_text
from ..lightning_modules.evaluation.aggregation import scored_instances
from ..lightning_modules.evaluation.metrics import Scores
from .prediction_writer import PredictionWriter
from .report.comparison import System, SystemsReport, qualitative_examples, short_names
from .report.coverage_text import terminal_coverage
from .report.page import render_page
from .report.predictions import read_predictions
from .report.scores import ScoreReport, build_report
from .report.text import render_markdown, render_terminal
from .run_folder import is_written, run_folder

EXAMPLES = 5  # qualitative examples under each heading of the page


class GeneralizationReport(Callback):
    """Print scores at the three levels of generalization, and write report.json, report.md and report.html.

    The levels are those of OPT-IML (arXiv 2212.12017): fully held-out, partially supervised, fully supervised. The
    report follows ``validate``, ``test`` and the validation after the last step of ``fit``; earlier validations only
    log their means. Scores come from the module (``pl_module.scores``), evaluated examples from the datamodule
    (``evaluation_examples(stage)``). report.html shows predictions, and is written only if the trainer has a
    PredictionWriter.

    Args:
        folder: Output folder; None for ``report/<stage>`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._reported: tuple[str, ScoreReport] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that the trainer has a datamodule of crosstask, which lists the evaluated examples.

        Raises:
            ValueError: It has none, or one of another project.
        """
        if stage in ("validate", "test") and run_data(trainer) is None:
            raise ValueError(
                "GeneralizationReport needs a datamodule of crosstask, which lists the evaluated examples: "
                "trainer.test(module, datamodule=...), or leave the callback out"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if is_written(trainer) and run_data(trainer) is not None:
            self._report(trainer, pl_module, "validation")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: Stage) -> None:
        folder = run_folder(trainer, f"report/{stage}", self.folder)
        data = run_data(trainer)
        assert data is not None
        scores: Scores = pl_module.scores  # type: ignore[assignment]
        examples = data.evaluation_examples(stage)
        coverage = data.evaluation_coverage(stage, set(scores.number.tolist()))
        report = build_report([scored_instances(scores, examples)], expected=len(examples), coverage=coverage)
        self._reported = stage, report
        if not trainer.is_global_zero:
            return
        title = f"Generalization report, {stage}"
        write_whole(folder / "report.json", json.dumps(asdict(report), indent=1) + "\n")
        write_whole(folder / "report.md", render_markdown(report, title))
        console = Console()
        console.print(render_terminal(report, title))
        if coverage is not None:
            console.print(terminal_coverage(coverage))
        console.print(terminal_text(f"categories and tasks: {folder / 'report.md'}"), soft_wrap=True, highlight=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write report.html. All callbacks have ended the stage by now, so that the predictions are on disk."""
        writer = next((c for c in trainer.callbacks if isinstance(c, PredictionWriter)), None)  # type: ignore[attr-defined]
        if self._reported is None or writer is None:
            return
        name, report = self._reported
        self._reported = None
        path, folder = writer.path(trainer, name), run_folder(trainer, f"report/{name}", self.folder)
        if trainer.is_global_zero:
            run = path.parents[1]
            system = System(short_names([run])[run], [str(path)], report)
            predictions = {system.name: read_predictions(path)} if report.overall else {}
            examples = qualitative_examples(predictions, EXAMPLES) if predictions else {}
            page = render_page(
                SystemsReport(name, "category", [system], [], examples), f"Generalization report, {name}"
            )
            write_whole(folder / "report.html", page)
            line = terminal_text(f"HTML page: {folder / 'report.html'}")
            Console().print(line, soft_wrap=True, highlight=False)
