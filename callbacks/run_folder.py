"""The folder that a run's files are written into."""

from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from ..datamodules.messages import expanded


def run_path(trainer: L.Trainer, name: str, override: str | None = None) -> Path:
    """Return the path of a folder in the run's folder, which is the logger's or the trainer's ``default_root_dir``.

    Every process must call it: ``trainer.log_dir`` is broadcast from the first process.

    Args:
        trainer: The run's trainer.
        name: Name of the folder.
        override: Path to return in place of it; None for none.
    """
    log_dir = trainer.log_dir or trainer.default_root_dir
    return expanded(override) if override else Path(log_dir) / name


def run_folder(trainer: L.Trainer, name: str, override: str | None = None) -> Path:
    """Return a folder in the run's folder, and create it if it is missing; every process must call it.

    Args:
        trainer: The run's trainer.
        name: Name of the folder.
        override: Path of the folder in place of it; None for none.
    """
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
