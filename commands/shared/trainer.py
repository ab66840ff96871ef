"""The commands of Lightning's trainer: fit, validate, test and predict."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import SUPPRESS, Namespace
from lightning import Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy

from ...callbacks.preemption import Preemption
from ...callbacks.progress import TrainingBar
from ...datamodules.base import BenchmarkDataModule
from ...datamodules.worker_processes import end_when_parent_dies, is_copy_of_parent
from ...lightning_modules.planned_training import PlannedTraining
from ...lightning_modules.sharding.checkpoints import (
    AnyLayoutIO,
    read_plain_values_alone,
    require_readable,
    require_resumable,
)
from ...lightning_modules.sharding.last_checkpoint import last_checkpoint, most_steps
from ...lightning_modules.sharding.replacing import newest_path, save_through_replacing
from ...lightning_modules.trainer_checks import reject_spawned_processes
from .command_docs import command_doc
from .library_messages import silence_libraries
from .linked_cli import LinkedCLI
from .parser import HelpFormatter
from .threads import CpuThreads


class TrainerCLI(LinkedCLI):
    """Runs a command of the trainer, which is set up for planned streams and for checkpoints of any layout."""

    checkpoint: Path | None = None
    """Checkpoint to resume from or to load weights from; None for a fresh run, or where Lightning finds it."""

    def __init__(self, words: Sequence[str]) -> None:
        self.command = words[0]
        doc = command_doc(self.command)
        help_texts = {
            "usage": f"crosstask {self.command} --config FILE [options]",
            "description": doc.description,
            "epilog": doc.example,
            "formatter_class": HelpFormatter,
        }
        super().__init__(
            words,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "crosstask", self.command: help_texts},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there: it lists all of them
        """The command that runs; parsers of the others would take a second to build.

        Checkpoints hold plain values and are never read otherwise: Lightning's option weights_only is left out.
        """
        return {self.command: {*LightningCLI.subcommands()[self.command], "weights_only"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        # Other commands accept it, too, since they read the config.yaml that fit has saved.
        text = "Resume although mixture, tasks, rows or seed are not those of the checkpoint."
        parser.add_argument(
            "--changed_stream", type=bool, default=False, help=text if self.command == "fit" else SUPPRESS
        )

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        write_below_root(self.settings["trainer"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise ValueError(f"the trainer cannot be built from its settings: {error}") from error
        reject_spawned_processes(trainer)
        set_up_checkpoints(trainer)
        save_last_step(trainer)  # by every command: a checkpoint holds the states of all of fit's callbacks
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        bar = trainer.progress_bar_callback
        if type(bar) is RichProgressBar:
            callbacks[callbacks.index(bar)] = TrainingBar()
        if isinstance(trainer.accelerator, CPUAccelerator):
            callbacks.insert(0, CpuThreads())
        if self.command == "fit" and trainer.checkpoint_callbacks and preemption(trainer) is None:
            averages = [isinstance(callback, WeightAveraging) for callback in callbacks]
            callbacks.insert(len(averages) - averages[::-1].index(True) if any(averages) else 0, Preemption())
        return trainer

    def _require_checkpoint(self) -> None:
        """Reject a checkpoint from which this run cannot resume, before anything is built."""
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
        if path is None or "://" in str(path):
            return
        self.checkpoint = newest_path(Path(path))
        if self.subcommand == "fit":
            require_resumable(self.checkpoint, self.trainer.strategy)
        else:
            require_readable(self.checkpoint, self.trainer.strategy)
        if isinstance(self.model, PlannedTraining):
            self.model.resumes_from = self.checkpoint

    def _last_checkpoint(self) -> Path | None:
        """The checkpoint that Lightning calls ``last``, or a newer one whose process ended before it was renamed."""
        writers = [writer for writer in self.trainer.checkpoint_callbacks if isinstance(writer, ModelCheckpoint)]
        folders = [(Path(writer.dirpath), writer.CHECKPOINT_NAME_LAST) for writer in writers if writer.dirpath]
        return most_steps(path for folder, name in folders if (path := last_checkpoint(folder, name)) is not None)

    before_fit = before_validate = before_test = before_predict = _require_checkpoint

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        return arguments if self.checkpoint is None else {**arguments, "ckpt_path": str(self.checkpoint)}

    def _parse_ckpt_path(self) -> None:
        """Keep the command line's model: a checkpoint brings weights and does not change arguments silently."""


def write_below_root(trainer: Any) -> None:
    """Write logs and checkpoints below ``default_root_dir``, unless the trainer's settings name another place."""
    root = trainer["default_root_dir"]
    if root is None:
        return
    if trainer["logger"] is None:
        logger = {"save_dir": str(root), "name": None}
        trainer["logger"] = Namespace(class_path=class_path(CSVLogger), init_args=Namespace(logger))
    for callback in trainer["callbacks"] or ():
        if callback["class_path"].endswith("ModelCheckpoint") and callback["init_args"].get("dirpath") is None:
            callback["init_args"]["dirpath"] = str(Path(root) / "checkpoints")


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def set_up_checkpoints(trainer: Trainer) -> None:
    """Have the trainer's strategy read checkpoints of any layout, as plain values, and write folders by renames.

    Raises:
        ValueError: DeepSpeed without a CUDA device.
    """
    strategy = trainer.strategy
    if type(strategy) is DeepSpeedStrategy and not isinstance(trainer.accelerator, CUDAAccelerator):
        raise ValueError(
            f"DeepSpeed is only supported on CUDA devices, and the accelerator is "
            f"{type(trainer.accelerator).__name__}: set trainer.strategy to auto, ddp or ShardedStrategy"
        )
    if isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        files = strategy.checkpoint_io
        if type(files) is TorchCheckpointIO:
            strategy.checkpoint_io = AnyLayoutIO()
        elif type(files) is AsyncCheckpointIO and type(files.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = AsyncCheckpointIO(AnyLayoutIO())
    elif isinstance(strategy, DeepSpeedStrategy | FSDPStrategy):
        save_through_replacing(strategy)
    read_plain_values_alone(strategy)


def save_last_step(trainer: Trainer) -> None:
    """Save ``last.ckpt`` after the last step, too, where the steps or seconds of a ModelCheckpoint would miss it."""
    for writer in [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]:
        every, timed = writer._every_n_train_steps, writer._train_time_interval is not None
        if writer.dirpath is not None and trainer.max_steps > 0 and (timed or (every and trainer.max_steps % every)):
            final = ModelCheckpoint(
                writer.dirpath,
                every_n_train_steps=trainer.max_steps,
                save_last=True,
                save_top_k=0,
                save_weights_only=writer.save_weights_only,
                enable_version_counter=writer._enable_version_counter,
            )
            trainer.callbacks.append(final)  # type: ignore[attr-defined]
            return


def run_trainer(words: Sequence[str]) -> TrainerCLI:
    """Run a command of the trainer and return the objects that it built.

    Args:
        words: fit, validate, test or predict, and the words after it.
    """
    silence_libraries()
    return TrainerCLI(words)


def run_and_leave(words: Sequence[str]) -> None:
    """Run a command of the trainer as the last one of this process.

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
    """The exit status of a run: not 0 if a signal ended it, unless SLURM starts it again."""
    callback = preemption(trainer)
    return 0 if callback is None else callback.exit_status


def preemption(trainer: Trainer) -> Preemption | None:
    """The trainer's callback Preemption; None if it has none."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Preemption)), None)
