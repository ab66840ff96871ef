"""Folders of runs: a new one for a run that names none, and protection from other runs that write into it."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import lightning as L
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from ...datamodules.packing.replicas import process_of_job
from ...datamodules.worker_processes import is_copy_of_parent
from .run_paths import without_places_below_root

RUNS = Path("runs")
"""Folder of runs that have no default_root_dir, inside the working directory."""

CHOSEN = "CROSSTASK_RUN_FOLDER"
"""Environment variable by which the first process tells other processes of the machine the chosen folder."""

WRITTEN_BEFORE_RUNNING = {"config.yaml", "hparams.yaml", "metrics.csv", "packing.json", "mixture.txt", "run.json"}


def needs_root(trainer: Mapping[str, Any]) -> bool:
    """Return whether a trainer's logs or checkpoints are written into its default_root_dir."""
    writers = [each for each in trainer["callbacks"] or () if each["class_path"].endswith("ModelCheckpoint")]
    return trainer["logger"] in (None, True) or any(not each["init_args"].get("dirpath") for each in writers)


def new_root(command: str) -> Path:
    """Return the folder of a run that names none.

    For fit, the first free one of ``runs/fit-1``, ``runs/fit-2``, ... is created. Other commands share a folder, e.g.
    ``runs/test``.

    Args:
        command: Name of the command.

    Raises:
        ValueError: A launcher such as torchrun started several processes, which cannot agree on a new folder.
    """
    if command != "fit":
        return RUNS / command
    if is_copy_of_parent() and CHOSEN in os.environ:
        return Path(os.environ[CHOSEN])
    if process_of_job().size > 1:
        raise ValueError(
            "several processes need one folder for their run: set trainer.default_root_dir, e.g. to runs/mine"
        )
    number = 1
    while True:
        folder = RUNS / f"{command}-{number}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)  # only one of several runs that start together can create it
            os.environ[CHOSEN] = str(folder)
            return folder
        number += 1


def checkpoint_folders(trainer: L.Trainer) -> list[Path]:
    """Return the folders that a trainer's ModelCheckpoints write into; none for ``fast_dev_run``."""
    callbacks = () if trainer.fast_dev_run else trainer.checkpoint_callbacks  # type: ignore[attr-defined]
    writers = [writer for writer in callbacks if isinstance(writer, ModelCheckpoint)]
    return list(dict.fromkeys(Path(writer.dirpath) for writer in writers if writer.dirpath))


def require_own_checkpoints(trainer: L.Trainer, resumes_from: Path | None) -> None:
    """Reject a run that would write checkpoints beside those of another run.

    Args:
        trainer: The run's trainer.
        resumes_from: Checkpoint that the run resumes from, whose folder may have checkpoints; None for a fresh run.

    Raises:
        ValueError: A folder has checkpoints of another run.
    """
    for folder in checkpoint_folders(trainer):
        there = sorted(path.name for path in folder.glob("*.ckpt"))
        if there and (resumes_from is None or resumes_from.resolve().parent != folder.resolve()):
            raise ValueError(
                f"{folder} holds checkpoints of another run ({', '.join(there[:3])}): add --ckpt_path last to resume "
                "that run, name another folder with --trainer.default_root_dir, or remove the old one"
            )


class FolderInUse(Callback):
    """Callback that rejects a run whose checkpoint folder another running process uses, by a lock on a hidden file."""

    def __init__(self) -> None:
        self._locks: dict[Path, IO[str]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lock the folders of the run's checkpoints.

        Raises:
            ValueError: Another run writes into one of them.
        """
        held = list(self._take(checkpoint_folders(trainer))) if trainer.is_global_zero else []
        for folder, other in trainer.strategy.broadcast(held):
            raise ValueError(
                f"another run ({other}) writes checkpoints into {folder}: wait until it ends, or name another folder "
                "with --trainer.default_root_dir"
            )

    def _take(self, folders: list[Path]) -> Iterator[tuple[str, str]]:
        """Lock folders; yield each folder that another process has locked, with a description of the process."""
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / ".in-use"
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held until the run ends
            job = os.environ.get("SLURM_JOB_ID", "")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                other = file.read().strip()
                # After a lost node, a file server can hold the lock of the same job's earlier start for a while.
                if not job or not other.endswith(f"job {job}"):
                    yield str(folder), other or "that has just begun"
                file.close()
                continue
            except OSError:  # a file system without locks
                file.close()
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}" + (f", job {job}" if job else ""))
            file.flush()
            self._locks[path] = file

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        for path, file in self._locks.items():
            path.unlink(missing_ok=True)
            file.close()
            with suppress(OSError):  # it holds checkpoints
                path.parent.rmdir()
        self._locks.clear()


class NewFolders(NamedTuple):
    """Records the folders that loggers create for a run, so that they can be removed if the run is rejected.

    The name of a logger's folder is not read at the start: two runs that start together would read the same number.

    Args:
        loggers: The trainer's loggers that number their folders; none on processes other than the first.
        before: Folders that existed before the run.
    """

    loggers: list[CSVLogger | TensorBoardLogger]
    before: set[Path]

    @classmethod
    def of(cls, trainer: L.Trainer) -> Self:
        """Record the existing folders of a trainer's loggers, before the run begins."""
        numbered = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger | TensorBoardLogger)]
        loggers = numbered if trainer.is_global_zero else []
        return cls(loggers, {path for logger in loggers for path in Path(logger.root_dir).glob("*")})

    def remove(self) -> None:
        """Remove the new folders of a run that was rejected before its first batch."""
        for folder in (Path(logger.log_dir) for logger in self.loggers):
            if folder not in self.before:
                remove_unused(folder)


class SavedConfig(SaveConfigCallback):
    """Callback that writes config.yaml when the run starts; LightningCLI's own writes it before settings are checked.

    Args:
        unused: List of the run's new folders, which is cleared at the first batch. A run that is rejected before then
            removes the folders in it.
        options: Arguments of LightningCLI's callback.
    """

    def __init__(self, *args: Any, unused: list[NewFolders], **options: Any) -> None:
        super().__init__(*args, **options)
        self.unused = unused

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Do nothing, unlike LightningCLI's callback."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._save(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, pl_module)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, pl_module)

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write config.yaml, unless it would be written into the working directory of a run without loggers."""
        if not trainer.loggers and Path(trainer.default_root_dir) == Path.cwd():
            return
        self.config = self.config.clone()
        self.config["trainer"] = without_places_below_root(self.config["trainer"])
        super().setup(trainer, pl_module, str(trainer.state.fn))

    def on_train_batch_start(self, *_: Any) -> None:
        self.unused.clear()

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if not trainer.sanity_checking:
            self.unused.clear()

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        self.unused.clear()

    def on_predict_batch_start(self, *_: Any, **__: Any) -> None:
        self.unused.clear()


def remove_unused(folder: Path) -> None:
    """Remove a run's folder if it has only files that are written before the first batch."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    known = (path.name in WRITTEN_BEFORE_RUNNING or path.name.startswith("events.out.tfevents") for path in files)
    if folder.is_dir() and all(known):
        shutil.rmtree(folder)


def remove_empty(root: Path) -> None:
    """Remove a run's folder if it has no files."""
    if root.is_dir() and not any(path for path in root.rglob("*") if not path.is_dir()):
        shutil.rmtree(root)
