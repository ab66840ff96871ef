"""Runs that receive a signal, or lose a process, at a chosen step."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning import Callback
from recipes import tuning_data

from crosstask.cli import main


class SendSignal(Callback):
    """Callback that sends this process a signal, as SLURM does before the end of a job's time.

    Args:
        step: Number of finished optimizer steps at which it happens.
        within: ``training`` for the next training batch, ``validation`` for the second batch of the next validation.
        rank: Rank of the process.
    """

    def __init__(self, step: int, within: str, rank: int = 0) -> None:
        self.step, self.within, self.rank = step, within, rank

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._send(trainer, "training")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 1:
            self._send(trainer, "validation")

    def _send(self, trainer: L.Trainer, where: str) -> None:
        if (trainer.global_step, where, trainer.global_rank) == (self.step, self.within, self.rank):
            os.kill(os.getpid(), signal.SIGUSR1)


class KillProcess(Callback):
    """Callback that kills a rank's process before a backward pass, while the other process waits for gradients.

    Args:
        step: Number of finished optimizer steps at which it happens.
        rank: Rank of the process.
        file: File that is created just before.
    """

    def __init__(self, step: int, rank: int, file: str) -> None:
        self.step, self.rank, self.file = step, rank, file

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            Path(self.file).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def write_recipe(folder: Path, toybench: Path, model: dict[str, Any]) -> Path:
    """Write a recipe of four steps, with a validation of several batches after every second one."""
    recipe = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 4,
            "val_check_interval": 2,
            "num_sanity_val_steps": 2,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "run"), "name": None}},
            "callbacks": [
                {"class_path": "Preemption"},
                {
                    "class_path": "ModelCheckpoint",
                    "init_args": {
                        "dirpath": str(folder / "checkpoints"),
                        "save_last": True,
                        "enable_version_counter": False,
                    },
                },
            ],
        },
        "model": {
            "class_path": "InstructionTuningModule",
            "init_args": {
                "config": model,
                "network": {"embedding_dropout": 0.1},
                "optimizer": {"learning_rate": 0.01, "warmup": 2},
            },
        },
        "data": tuning_data(
            toybench,
            rows={"per_step": 2},
            instances={"validation": 2},
            evaluation={"batch_tokens": 4096},
        ),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def fit_words(recipe: Path, name: str) -> list[str]:
    """Return the words of a fit whose logs and checkpoints have a name; after a dash, it numbers a job's starts."""
    return [
        *("fit", "--config", str(recipe), "--ckpt_path=last", f"--trainer.logger.init_args.version={name}"),
        f"--trainer.callbacks.init_args.dirpath={recipe.parent / name.split('-')[0]}",
    ]


def run(recipe: Path, name: str, *words: str) -> int:
    """Run a fit and return its exit status."""
    try:
        main([*fit_words(recipe, name), *words])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def signalled(step: int, within: str) -> list[str]:
    return [
        "--trainer.callbacks+=signalled_runs.SendSignal",
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.within={within}",
    ]


def logged(folder: Path, names: list[str]) -> dict[tuple[int, str], float]:
    """Return losses and scores by (step, name), over all starts of a run."""
    found: dict[tuple[int, str], float] = {}
    for name in names:
        with open(folder / "run" / name / "metrics.csv") as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    if key.startswith(("train/loss", "validation/")) and value:
                        assert (int(row["step"]), key) not in found, "trained or validated twice"
                        found[int(row["step"]), key] = float(value)
    return found
