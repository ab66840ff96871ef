"""Where a run's own files go."""

from pathlib import Path

import lightning as L


def run_folder(trainer: L.Trainer, name: str, override: str | None = None) -> Path:
    """The folder `name` of the run, or the one the user chose; made if it is missing.

    Every process must call it, not the first alone: ``trainer.log_dir`` is broadcast.
    """
    log_dir = trainer.log_dir or trainer.default_root_dir
    folder = Path(override or Path(log_dir) / name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
