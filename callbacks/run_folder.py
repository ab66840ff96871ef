"""The folder that a run's files are written into."""

from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from ..datamodules.messages import expanded


def run_path(trainer: L.Trainer, name: str, override: str | None = None) -> Path:
    """Return the path of the folder `name` in the run's folder, or `override` if it is given.

    Every process must call it: ``trainer.log_dir`` is broadcast from the first process.
    """
    log_dir = trainer.log_dir or trainer.default_root_dir
    return expanded(override) if override else Path(log_dir) / name


def run_folder(trainer: L.Trainer, name: str, override: str | None = None) -> Path:
    """Return the folder of `run_path`, created if it is missing; every process must call it."""
    folder = run_path(trainer, name, override)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_written(trainer: L.Trainer) -> bool:
    """Return whether the current validation's predictions and scores are written to files.

    They are for ``validate``, and for the validation after the last step of ``fit``.
    """
    if trainer.state.fn == TrainerFn.VALIDATING:
        return True
    return not trainer.sanity_checking and 0 < trainer.max_steps <= trainer.global_step
