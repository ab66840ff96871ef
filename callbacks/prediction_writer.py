"""Write every prediction as one line of JSON, to be read by people and programs."""

import json
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning import Callback
from lightning.pytorch.trainer.states import TrainerFn

from ..datamodules.packing.replicas import process_number
from ..lightning_modules.evaluation.metrics import Answer
from .report.predictions import prediction_line
from .run_folder import run_folder


class PredictionWriter(Callback):
    """Write answers of ``validate``, ``test`` and ``predict`` as JSONL, in the order of the examples.

    Every process writes its own part as batches end, so that a run that is killed keeps what it had; the first
    process joins the parts.

    Args:
        folder: Where to write ``<stage>.jsonl``; by default ``predictions`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._part: IO[str] | None = None

    def path(self, trainer: L.Trainer, stage: str) -> Path:
        """Where a stage's predictions are once it has ended; every process must ask, see ``run_folder``."""
        return run_folder(trainer, "predictions", self.folder) / f"{stage}.jsonl"

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open(trainer, "validation")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, "test")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, "predict")

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._write(outputs)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._write(outputs)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._write(outputs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._join(trainer, "validation")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._join(trainer, "test")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._join(trainer, "predict")

    def _open(self, trainer: L.Trainer, stage: str) -> None:
        folder = run_folder(trainer, "predictions", self.folder)
        if trainer.is_global_zero:  # parts of a run that was killed would be joined with these
            for part in folder.glob(f".{stage}-*.part"):
                part.unlink()
        trainer.strategy.barrier()
        self._part = open(folder / f".{stage}-{process_number(trainer)}.part", "w", encoding="utf-8")  # noqa: SIM115

    def _write(self, answers: list[Answer] | None) -> None:
        if self._part is None:
            return
        for answer in answers or ():
            self._part.write(json.dumps(prediction_line(answer), ensure_ascii=False) + "\n")
        self._part.flush()

    def _join(self, trainer: L.Trainer, stage: str) -> None:
        if self._part is None:
            return
        self._part.close()
        self._part = None
        trainer.strategy.barrier()
        folder = run_folder(trainer, "predictions", self.folder)
        if trainer.is_global_zero:
            parts = sorted(folder.glob(f".{stage}-*.part"))
            # A line ends at "\n" alone: splitlines would also cut texts at U+2028, which JSON leaves as it is.
            # An example that several processes answered (those of a tensor-parallel group) is written once.
            lines = {
                json.loads(line)["number"]: line
                for part in parts
                for line in part.read_text(encoding="utf-8").split("\n")
                if line
            }
            joined = "".join(f"{lines[number]}\n" for number in sorted(lines))
            (folder / f"{stage}.jsonl").write_text(joined, encoding="utf-8")
            for part in parts:
                part.unlink()
