"""The folder of a run's files."""

from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from ..datamodules.messages import expanded


def run_path(trainer: L.Trainer, name: str, override: str | None = None) -> Path:
    """Path of the folder `name` of the run, or `override`.

    Every process must call it: ``trainer.log_dir`` is broadcast from the first one.
    """
    log_dir = trainer.log_dir or trainer.default_root_dir
    return expanded(override) if override else Path(log_dir) / name


def run_folder(trainer: L.Trainer, name: str, override: str | None = None) -> Path:
    """The folder of `run_path`, created if it is missing."""
    folder = run_path(trainer, name, override)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_written(trainer: L.Trainer) -> bool:
    """Whether predictions and scores of the running validation are written: of ``validate``, and of fit's last step."""
    if trainer.state.fn == TrainerFn.VALIDATING:
        return True
    return not trainer.sanity_checking and 0 < trainer.max_steps <= trainer.global_step
