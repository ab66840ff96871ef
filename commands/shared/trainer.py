"""The commands fit, validate, test and predict: LightningCLI with crosstask's checkpoints, folders and callbacks."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import SUPPRESS
from lightning import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, TQDMProgressBar, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from ...callbacks.preemption import Preemption
from ...callbacks.progress import TrainingBar
from ...callbacks.progress_lines import ProgressLines
from ...datamodules.base import BenchmarkDataModule
from ...datamodules.messages import expanded, nearest
from ...datamodules.worker_processes import end_when_parent_dies, is_copy_of_parent
from ...lightning_modules.planned_training import PlannedTraining
from ...lightning_modules.sharding.checkpoint_replacement import newest_path
from ...lightning_modules.sharding.checkpoints import require_readable, require_resumable
from ...lightning_modules.sharding.last_checkpoint import last_checkpoint, most_steps
from ...lightning_modules.trainer_checks import reject_spawned_processes
from .command_docs import command_doc
from .default_settings import log_interval
from .errors import PACKAGE
from .library_messages import silence_libraries
from .linked_cli import LinkedCLI, require_tokenizer
from .parser import HelpFormatter
from .run_checkpoints import save_last_step, set_up_checkpoints
from .run_folders import (
    FolderInUse,
    NewFolders,
    SavedConfig,
    needs_root,
    new_root,
    remove_empty,
    require_own_checkpoints,
)
from .run_paths import write_below_root
from .termination import EndOnSigterm
from .threads import CpuThreads


class TrainerCLI(LinkedCLI):
    """LightningCLI that runs one of the commands fit, validate, test and predict when it is constructed.

    Args:
        words: Name of the command, and the words after it.
    """

    checkpoint: Path | None = None
    """Checkpoint to resume from or to load weights from; None for a fresh run, or if it is a URL."""

    def __init__(self, words: Sequence[str]) -> None:
        self.command = words[0]
        doc = command_doc(self.command)
        help_texts = {
            "usage": f"crosstask {self.command} --config FILE [options]",
            "description": doc.description,
            "epilog": doc.example,
            "formatter_class": HelpFormatter,
        }
        self.new_root: Path | None = None
        """Folder that was created for this run because its settings have none."""
        self.unused: list[NewFolders] = []
        """Folders that are removed again if the run is rejected before its first batch."""
        try:
            super().__init__(
                words,
                save_config_callback=SavedConfig,
                save_config_kwargs={"overwrite": True, "unused": self.unused},
                parser_kwargs={"prog": "crosstask", self.command: help_texts},
            )
        except BaseException:
            for folders in self.unused:
                folders.remove()
            if self.new_root is not None:
                remove_empty(self.new_root)
            raise

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there: it lists all of them
        """Return only the command that runs, since parsers of the others would take a second to build.

        Lightning's option weights_only is left out: checkpoints are always read as plain values.
        """
        return {self.command: {*LightningCLI.subcommands()[self.command], "weights_only"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        # Other commands accept it, too, since they read the config.yaml that fit has saved.
        text = "Resume although mixture, tasks, rows or seed are not those of the checkpoint."
        parser.add_argument(
            "--changed_stream", type=bool, default=False, help=text if self.command == "fit" else SUPPRESS
        )
        parser.add_argument(
            "--without",
            type=str | list[str],
            default=[],
            help="Callbacks to leave out of trainer.callbacks, by class name.",
        )

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        require_tokenizer(self.settings)
        trainer = self.settings["trainer"]
        if "trainer.callbacks" not in self.given:
            leave_out_unusable(trainer, str(self.settings["model"]["class_path"]))
        without = self.settings["without"]
        leave_out(trainer, [without] if isinstance(without, str) else without)
        self.settings["without"] = []  # a saved configuration lists the callbacks that are left
        if trainer["default_root_dir"] is not None:
            trainer["default_root_dir"] = str(expanded(trainer["default_root_dir"]))
        self._choose_root()
        write_below_root(trainer)
        if self.command == "fit":
            for line in self.defaults:
                rank_zero_info(line)

    def _choose_root(self) -> None:
        trainer = self.settings["trainer"]
        if trainer["default_root_dir"] is not None or trainer["fast_dev_run"] or not needs_root(trainer):
            return
        if self.settings.get("ckpt_path") == "last":
            raise ValueError(
                "--ckpt_path last is looked for in the run's folder, and the run names none: set "
                "trainer.default_root_dir, or give the path of the checkpoint"
            )
        root = new_root(self.command)
        trainer["default_root_dir"] = str(root)
        if self.command == "fit":
            self.new_root = root

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise ValueError(f"the trainer cannot be built from its settings: {error}") from error
        self.unused.append(NewFolders.of(trainer))
        reject_spawned_processes(trainer)
        set_up_checkpoints(trainer)
        save_last_step(trainer)  # by every command: a checkpoint holds the states of all of fit's callbacks
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self.command == "fit":
            callbacks.insert(0, FolderInUse())
            if self.settings["trainer"]["log_every_n_steps"] is None:
                callbacks.insert(0, LogInterval())
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar | TQDMProgressBar) and not self._names_bar():
            callbacks[callbacks.index(bar)] = TrainingBar() if sys.stdout.isatty() else ProgressLines()
        if isinstance(trainer.accelerator, CPUAccelerator):
            callbacks.insert(0, CpuThreads())
        if self.command == "fit" and trainer.checkpoint_callbacks and preemption(trainer) is None:
            averages = [isinstance(callback, WeightAveraging) for callback in callbacks]
            callbacks.insert(len(averages) - averages[::-1].index(True) if any(averages) else 0, Preemption())
        callbacks.insert(0, EndOnSigterm())  # before Preemption, which replaces it in training
        return trainer

    def _names_bar(self) -> bool:
        """Return whether the settings have a progress bar of their own."""
        return any(each["class_path"].endswith("ProgressBar") for each in self.settings["trainer"]["callbacks"] or ())

    def _require_checkpoint(self) -> None:
        """Find the checkpoint, and reject one from which this run cannot resume, before anything is built."""
        if isinstance(self.datamodule, BenchmarkDataModule):
            self.datamodule.accepts_changed_stream = self.settings["changed_stream"]
        given = self.settings.get("ckpt_path")
        if given == "best":
            raise ValueError(
                "--ckpt_path best has a meaning only within the run that saved it: give the path of the checkpoint"
            )
        if given == "hpc" or str(given).startswith("registry"):
            raise ValueError(
                f"--ckpt_path {given} is not supported: Lightning saves hpc checkpoints wherever the program is, "
                "within an optimizer step, too; use the callback Preemption and --ckpt_path last, or give a path"
            )
        path = self._last_checkpoint() if given == "last" else given
        if path is None and given == "last" and self.subcommand != "fit":  # Lightning would take the untrained weights
            raise ValueError(
                f"--ckpt_path last: there is no checkpoint of a run below {self.trainer.default_root_dir}: set "
                "trainer.default_root_dir to the folder of the run, or give the path of the checkpoint"
            )
        if path is None or "://" in str(path):
            if self.subcommand == "fit":
                require_own_checkpoints(self.trainer, None)
            return
        self.checkpoint = newest_path(path if isinstance(path, Path) else expanded(path))
        if self.subcommand == "fit":
            require_own_checkpoints(self.trainer, self.checkpoint)
            require_resumable(self.checkpoint, self.trainer.strategy)
        else:
            require_readable(self.checkpoint, self.trainer.strategy)
        if isinstance(self.model, PlannedTraining):
            self.model.resumes_from = self.checkpoint

    def _last_checkpoint(self) -> Path | None:
        """Return the checkpoint that Lightning calls ``last``, or a newer one that was not renamed to it in time."""
        writers = [writer for writer in self.trainer.checkpoint_callbacks if isinstance(writer, ModelCheckpoint)]
        folders = [(Path(writer.dirpath), writer.CHECKPOINT_NAME_LAST) for writer in writers if writer.dirpath]
        return most_steps(path for folder, name in folders if (path := last_checkpoint(folder, name)) is not None)

    before_fit = before_validate = before_test = before_predict = _require_checkpoint

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        return arguments if self.checkpoint is None else {**arguments, "ckpt_path": str(self.checkpoint)}

    def _parse_ckpt_path(self) -> None:
        """Do nothing, unlike LightningCLI, which replaces the model's arguments by those in the checkpoint."""


def leave_out_unusable(trainer: Any, module: str) -> None:
    """Remove default callbacks that do not work with the other settings of the trainer, or with the module.

    Args:
        trainer: Parsed settings of the trainer, changed in place.
        module: Import path of the module's class; for a class of another project, all default callbacks are removed.
    """
    if trainer["fast_dev_run"] or trainer["barebones"] or not module.startswith(f"{PACKAGE}."):
        trainer["callbacks"] = None
        return
    unusable = [
        *(["ModelCheckpoint"] if trainer["enable_checkpointing"] is False else []),
        *(["LearningRateMonitor"] if trainer["logger"] is False else []),
    ]
    leave_out(trainer, unusable)


def leave_out(trainer: Any, names: Sequence[str]) -> None:
    """Remove callbacks from the trainer's settings.

    Args:
        trainer: Parsed settings of the trainer, changed in place.
        names: Names of the callbacks' classes.

    Raises:
        ValueError: The settings have no such callback.
    """
    listed = {each["class_path"].rpartition(".")[2] for each in trainer["callbacks"] or ()}
    for name in names:
        if name not in listed:
            raise ValueError(f"--without {name}: trainer.callbacks has no {name}; {nearest(name, sorted(listed))}")
    if names:
        kept = [each for each in trainer["callbacks"] if each["class_path"].rpartition(".")[2] not in names]
        trainer["callbacks"] = kept


class LogInterval(Callback):
    """Callback that logs short runs more often; the number of steps is known when the data is set up."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.log_every_n_steps = log_interval(trainer.max_steps)  # type: ignore[attr-defined]


def run_trainer(words: Sequence[str]) -> TrainerCLI:
    """Run a command of the trainer, and return the CLI with trainer, model and data.

    Args:
        words: fit, validate, test or predict, and the words after it.
    """
    silence_libraries()
    return TrainerCLI(words)


def run_and_leave(words: Sequence[str]) -> None:
    """Run a command of the trainer as the last action of this process: process groups are destroyed afterwards.

    Args:
        words: fit, validate, test or predict, and the words after it.

    Raises:
        SystemExit: A signal ended the run.
    """
    if is_copy_of_parent():
        end_when_parent_dies()  # the others would wait for the first process in a collective
    status = exit_status(run_trainer(words).trainer)
    # Lightning leaves a gloo group to the interpreter's exit, where its threads can abort a run that has succeeded.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if status:
        sys.exit(status)


def exit_status(trainer: Trainer) -> int:
    """Return the exit status of a run: not 0 if a signal ended it, unless SLURM restarts it."""
    callback = preemption(trainer)
    return 0 if callback is None else callback.exit_status


def preemption(trainer: Trainer) -> Preemption | None:
    """Return the trainer's callback ``Preemption``; None if it has none."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Preemption)), None)
