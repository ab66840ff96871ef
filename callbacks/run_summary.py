"""Callback that prints at the end of training what was done, where the files are, and which commands come next."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from ..datamodules.base import run_data
from ..datamodules.messages import command_line, counted
from ..datamodules.packing.replicas import replicas
from .huggingface_export import HuggingFaceExport
from .next_commands import PROMPTS, next_commands, write_prompts
from .prediction_writer import PredictionWriter
from .preemption import Preemption, checkpoint_folder
from .progress import shown_metrics
from .progress_lines import clock
from .run_folder import run_folder
from .token_counts import token_count


class RunSummary(Callback):
    """Print steps, tokens, time, final metrics, the run's files and the next commands at the end of ``fit``.

    List it after the callbacks whose files it names. The commands are printed only if LightningCLI has written the
    run's config.yaml.
    """

    def __init__(self) -> None:
        self._begun: float | None = None
        """Seconds on the monotonic clock; None until a training begins, which a finished run does not do."""
        self._first_step, self._ended = 0, False
        self._tokens: int | Tensor = 0
        self._metrics: dict[str, float] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begun = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begun, self._first_step = time.monotonic(), trainer.global_step
        self._tokens, self._ended = 0, False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tokens += token_count(batch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._metrics = shown_metrics(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print the summary; all callbacks have written their files by now."""
        if not self._ended:
            return
        self._ended = False
        folder = run_folder(trainer, "")
        if trainer.is_global_zero:
            write_prompts(run_data(trainer), folder)
            files = run_files(trainer, folder)
            width = max(map(len, files), default=0)
            lines = [self._trained(trainer), *(f"  {name:<{width}}  {path}" for name, path in files.items())]
            print("\n".join(["", *lines, *commands_of(trainer, folder)]), flush=True)

    def _trained(self, trainer: L.Trainer) -> str:
        if self._begun is None:
            return f"Nothing left to train: the checkpoint is of step {trainer.global_step:,}, the run's last"
        steps, seconds = trainer.global_step - self._first_step, time.monotonic() - self._begun
        tokens = int(self._tokens) * replicas(trainer).size
        metrics = [f"{name} {value:.4g}" for name, value in self._metrics.items()]
        trained = counted(steps, "step") + (f", {tokens:,} tokens" if tokens else "")
        return f"Trained {trained} in {clock(seconds)}: {', '.join(metrics) or 'no metrics'}"


def run_files(trainer: L.Trainer, folder: Path) -> dict[str, Path]:
    """Return the paths that a training has written, by description; missing ones are left out."""
    files = {"run": folder}
    if (checkpoint := last_path(trainer)) is not None:
        files["checkpoint"] = checkpoint
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, HuggingFaceExport):
            files["Hugging Face folder"] = Path(callback.folder or folder / "huggingface")
        elif isinstance(callback, PredictionWriter):
            files["predictions"] = Path(callback.folder or folder / "predictions") / "validation.jsonl"
    files["prompts"] = folder / PROMPTS
    files["report"] = folder / "report" / "validation" / "report.html"
    return {name: path for name, path in files.items() if path.exists()}


def last_path(trainer: L.Trainer) -> Path | None:
    """Return the last checkpoint that the training has written; None if there is none."""
    folder = checkpoint_folder(trainer)
    writers = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    preempted = any(isinstance(each, Preemption) and each.preempted for each in trainer.callbacks)  # type: ignore[attr-defined]
    if preempted and folder is not None:
        return relative_if_below(folder / "last.ckpt")
    paths = [path for writer in writers for path in (writer.last_model_path, writer.best_model_path) if path]
    return relative_if_below(Path(paths[0])) if paths else None


def relative_if_below(path: Path) -> Path:
    """Return a path relative to the working directory if it is below that; any other path unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def commands_of(trainer: L.Trainer, folder: Path) -> list[str]:
    """Return lines with the next commands, or with the one that resumes an interrupted training."""
    config, checkpoint = folder / "config.yaml", last_path(trainer)
    if checkpoint is None or not config.is_file():
        return []
    if trainer.global_step < trainer.max_steps and any(
        isinstance(callback, Preemption) and callback.preempted
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    ):
        return ["Interrupted; resume with", f"  {command_line('fit', '--config', config, '--ckpt_path', 'last')}"]
    commands = next_commands(trainer, folder, relative_if_below(Path(trainer.default_root_dir)), checkpoint)
    return ["Next:", *(f"  {command}" for command in commands)]
