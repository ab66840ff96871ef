"""Callback that writes predictions as JSON lines, one line per example."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ..datamodules.atomic_files import write_whole
from ..datamodules.base import run_data
from ..datamodules.data_files import parse_json
from ..datamodules.packing.replicas import process_number
from ..datamodules.schema import EvaluationExample, ResumableModule, Stage
from ..lightning_modules.evaluation.answers import Answer
from .report.predictions import answer_of, is_prediction_of, prediction_line
from .run_folder import is_written, run_folder
from .unfinished_predictions import Unfinished, find_unfinished, open_part, part_path, read_part, records


class PredictionWriter(Callback):
    """Write the predictions of ``validate``, ``test`` and ``predict`` as JSONL, in the order of the examples.

    The validation after the last step of ``fit`` is written, too; earlier ones are not. Every process writes a part
    while batches end, and the first process joins the parts.

    An interrupted evaluation resumes: the next run reuses its parts if weights, prompts, decoding, batches and
    precision are the same, and reports what an uninterrupted run would. Parts are searched in the same folder and in
    other versions of the run (``runs/name/version_*``). Predictions of another evaluation in the same folder are kept
    as ``<stage>-earlier-<number>.jsonl``.

    Args:
        folder: Output folder of ``<stage>.jsonl``; None for ``predictions`` in the run's folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._part: IO[str] | None = None

    def path(self, trainer: L.Trainer, stage: str) -> Path:
        """Return the path of the file with a stage's predictions.

        Every process must call it, since the run's folder is broadcast from the first process.
        """
        return run_folder(trainer, "predictions", self.folder) / f"{stage}.jsonl"

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if is_written(trainer):
            self._open(trainer, pl_module, "validation")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, pl_module, "test")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, pl_module, "predict")

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

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close this process's file of predictions, from which the next run can resume."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def _open(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = run_folder(trainer, "predictions", self.folder)
        header = _header(trainer, pl_module, stage)
        kept = self._resume(trainer, pl_module, stage, folder, header) if header else Unfinished({}, [], {})
        path = part_path(folder, stage, process_number(trainer))
        if trainer.is_global_zero:
            self._part = open_part(path, header, kept.lines.values())
            # The reused lines are in this part now; other parts would be joined a second time.
            for part in {*kept.paths, *folder.glob(f".{stage}-*.part")} - {path}:
                part.unlink()
        trainer.strategy.barrier()
        if self._part is None:
            self._part = open_part(path, header)

    def _resume(
        self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str, folder: Path, header: dict[str, str]
    ) -> Unfinished:
        """Return reusable predictions of an interrupted run; their examples are skipped, and their scores count."""
        data = run_data(trainer)
        assert data is not None
        assert isinstance(pl_module, ResumableModule)
        examples = data.evaluation_examples(_evaluated(stage))
        unfinished = Unfinished({}, [], {})
        if trainer.is_global_zero:
            unfinished = find_unfinished(folder, stage, header, beside=self.folder is None)
            for path, differs in unfinished.others.items():
                rank_zero_info(f"{path} cannot be resumed ({', '.join(differs)} differ): evaluating from the start")
            unfinished = unfinished._replace(lines=_predictions_of(unfinished.lines, examples))
        unfinished = trainer.strategy.broadcast(unfinished)
        data.skip_examples(_evaluated(stage), unfinished.lines.keys())
        if unfinished.lines:
            folders = ", ".join(sorted({str(path.parent) for path in unfinished.paths}))
            rank_zero_info(f"resuming: {len(unfinished.lines)} of {len(examples)} predictions are in {folders}")
        if trainer.is_global_zero and stage != "predict":
            pl_module.restore_answers(
                [answer_of(record, examples[record["number"]]) for record in records(unfinished.lines)]
            )
        return unfinished

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
            # The processes of a tensor-parallel group predict the same examples; each is written once.
            lines = {number: line for part in parts for number, line in read_part(part)[1].items()}
            joined = "".join(f"{lines[number]}\n" for number in sorted(lines))
            keep_earlier(folder / f"{stage}.jsonl", joined)
            write_whole(folder / f"{stage}.jsonl", joined)
            for part in parts:
                part.unlink()
        if (data := run_data(trainer)) is not None:
            data.skip_examples(_evaluated(stage), ())  # a second evaluation by this process evaluates all examples


def keep_earlier(path: Path, text: str) -> None:
    """Rename an existing file of predictions to ``<stage>-earlier-<number>.jsonl``, unless its content is `text`.

    `text` is the content that is about to be written to `path`.
    """
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") == text:
        return
    number = 1
    while (earlier := path.with_stem(f"{path.stem}-earlier-{number}")).exists():
        number += 1
    path.rename(earlier)
    rank_zero_warn(f"{path} held predictions of another evaluation, which are {earlier.name} now")


def _predictions_of(lines: Mapping[int, str], examples: Sequence[EvaluationExample]) -> dict[int, str]:
    """Return the lines that are complete predictions for the examples with their numbers; others are reported."""
    usable = {
        number: line
        for number, line in lines.items()
        if 0 <= number < len(examples) and is_prediction_of(parse_json(line, f"prediction {number}"), examples[number])
    }
    if len(usable) < len(lines):
        rank_zero_warn(f"{len(lines) - len(usable)} damaged predictions of an interrupted run are evaluated again")
    return usable


def _evaluated(stage: str) -> Stage:
    """Return the datamodule's stage; prediction uses the test examples."""
    return "validation" if stage == "validation" else "test"


def _header(trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> dict[str, str] | None:
    """Return all that determines the answers; None if module or data cannot resume an interrupted evaluation."""
    data = run_data(trainer)
    if data is None or not isinstance(pl_module, ResumableModule):
        return None
    prompts = data.evaluation_fingerprint(_evaluated(stage))
    answers = None if prompts is None else pl_module.answer_fingerprint()
    return None if prompts is None or answers is None else answers | prompts
