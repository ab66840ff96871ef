"""A run that is asked to stop anywhere, and goes on as if it had not been."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning import Callback
from recipes import tuning_data

from crosstask.cli import main


class Asks(Callback):
    """Sends this process a signal, as SLURM does before a job's time is over.

    Args:
        step: After so many optimizer steps.
        within: In the training batch that follows, or in the second batch of the validation that does.
        rank: Whose process is asked.
    """

    def __init__(self, step: int, within: str, rank: int = 0) -> None:
        self.step, self.within, self.rank = step, within, rank

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._ask(trainer, "training")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 1:
            self._ask(trainer, "validation")

    def _ask(self, trainer: L.Trainer, where: str) -> None:
        if (trainer.global_step, where, trainer.global_rank) == (self.step, self.within, self.rank):
            os.kill(os.getpid(), signal.SIGUSR1)


def write_recipe(folder: Path, toybench: Path, model: dict[str, Any]) -> Path:
    """Four steps with a validation of several batches after every second one."""
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
            "init_args": {"config": model, "learning_rate": 0.01, "warmup_steps": 2, "embedding_dropout": 0.1},
        },
        "data": tuning_data(toybench, folder / "store", rows_per_step=2, validation_examples=2, evaluation_tokens=4096),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def fit_words(recipe: Path, name: str) -> list[str]:
    """Words of a fit whose metrics and checkpoints carry a name; what follows its dash numbers the starts of a job."""
    return [
        *("fit", "--config", str(recipe), "--ckpt_path=last", f"--trainer.logger.init_args.version={name}"),
        f"--trainer.callbacks.init_args.dirpath={recipe.parent / name.split('-')[0]}",
    ]


def run(recipe: Path, name: str, *words: str) -> None:
    main([*fit_words(recipe, name), *words])


def asking(step: int, within: str) -> list[str]:
    return [
        "--trainer.callbacks+=test_preemption.Asks",
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.within={within}",
    ]


def logged(folder: Path, names: list[str]) -> dict[tuple[int, str], float]:
    """Losses and scores by step, over all starts of a run."""
    found: dict[tuple[int, str], float] = {}
    for name in names:
        with open(folder / "run" / name / "metrics.csv") as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    if key.startswith(("train/loss", "validation/")) and value:
                        assert (int(row["step"]), key) not in found, "trained or validated twice"
                        found[int(row["step"]), key] = float(value)
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict) -> Path:
    path = write_recipe(tmp_path_factory.mktemp("preemption"), toybench, tiny_model)
    run(path, "undisturbed")
    return path


@pytest.mark.parametrize(("step", "within"), [(1, "training"), (2, "validation")])
def test_a_run_that_was_asked_to_stop_ends_as_an_undisturbed_one(recipe: Path, step: int, within: str) -> None:
    handler = signal.getsignal(signal.SIGUSR1)
    folder, name = recipe.parent, f"{within}_{step}"
    run(recipe, f"{name}-0", *asking(step, within))
    assert signal.getsignal(signal.SIGUSR1) == handler
    saved = torch.load(folder / name / "last.ckpt", weights_only=False)["global_step"]
    assert saved == step + (within == "training")
    run(recipe, f"{name}-1")
    expected, found = logged(folder, ["undisturbed"]), logged(folder, [f"{name}-0", f"{name}-1"])
    assert [step for step, key in expected if key == "train/loss"] == [0, 1, 2, 3]
    assert len({step for step, key in expected if key.startswith("validation/")}) == 2
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_validation_that_no_run_will_repeat_is_told_of(recipe: Path) -> None:
    with pytest.warns(UserWarning, match="preempted in the validation after the last step, which a resumed run does"):
        run(recipe, "last-0", *asking(4, "validation"))
    assert (recipe.parent / "last" / "last.ckpt").is_file()
