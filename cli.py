"""The command line: ``crosstask fit|validate|test|predict`` for Lightning, and plain functions for everything else.

A command is a typed function beside the thing it commands; this file only finds it. LightningCLI's own commands are
methods of the trainer, and it builds the trainer first: a command that needs none would not run without its hardware.
"""

import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import auto_cli
from lightning import Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy

# Imported for their class names: `class_path: InstructionTuningModule` needs no package in a YAML.
from crosstask import callbacks, datamodules, lightning_modules
from crosstask.callbacks.progress import TrainingBar
from crosstask.commands.adapt import adapt_tasks
from crosstask.commands.classify import classify_tasks
from crosstask.commands.decontaminate import decontaminate
from crosstask.commands.describe import describe
from crosstask.commands.export import export_checkpoint
from crosstask.commands.plan import plan_training
from crosstask.commands.prepare import prepare
from crosstask.commands.report import write_report
from crosstask.commands.samples import write_samples
from crosstask.commands.scaling import plot_scaling
from crosstask.commands.select import select_samples
from crosstask.commands.shared.parser import SentenceParser, is_ours
from crosstask.commands.splits import search_splits
from crosstask.commands.tokenizer import train_tokenizer
from crosstask.commands.toybench import write_benchmark
from crosstask.datamodules.messages import nearest, unknown_class_hint
from crosstask.lightning_modules.planned_training import PlannedTraining
from crosstask.lightning_modules.sharding.checkpoints import AnyLayoutIO, require_readable, require_resumable
from crosstask.lightning_modules.sharding.replacing import last_checkpoint, newest_path, save_through_replacing

COMMANDS: dict[str, Callable[..., Any]] = {
    "export": export_checkpoint,
    "adapt": adapt_tasks,
    "classify": classify_tasks,
    "report": write_report,
    "samples": write_samples,
    "scaling": plot_scaling,
    "select": select_samples,
    "splits": search_splits,
    "tokenizer": train_tokenizer,
    "toybench": write_benchmark,
}
"""Commands beside the trainer's; each function's arguments are the command's options."""

DATA_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "decontaminate": decontaminate,
    "describe": describe,
    "prepare": prepare,
}
"""Commands that read the data of a run's YAML; each is handed the words behind its name."""

FIT_COMMANDS: dict[str, Callable[..., Any]] = {"plan": plan_training}
"""Commands about a fit: a function of the fit's parsed configuration, whose other arguments are options."""

LINKED = {
    "tokenizer": "tokenizer",
    "rows.length": "row_length",
    "preset": "preset",
    "levels.inner_steps": "inner_steps",
    "instructions.length": "instruction_length",
    "instructions.exemplars": "exemplars",
}
"""Arguments of a datamodule and the module's arguments that follow from them, if both classes have them."""


class Parser(SentenceParser, LightningArgumentParser):
    """Answers the name of an unknown class with the nearest known ones."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        rooms = (datamodules, datamodules.benchmarks, lightning_modules, callbacks)
        known = {name for room in rooms for name in room.__all__ if inspect.isclass(getattr(room, name))}
        super().error(message + unknown_class_hint(message, known), ex)


class CrosstaskCLI(LightningCLI):
    """LightningCLI with what data and model must agree on linked, and a trainer set up for planned streams."""

    checkpoint: Path | None = None
    """Where the run goes on, or whose weights it reads; None where it starts, or Lightning knows better."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for source, target in LINKED.items():
            parser.link_arguments(f"data.init_args.{source}", f"model.init_args.{target}")
        parser.link_arguments("trainer.max_steps", "model.init_args.total_steps")
        # The responses to an instruction stay together where they are compared.
        parser.link_arguments(
            "model.init_args.loss", "data.init_args.rows.grouped", compute_fn=lambda loss: loss != "regression"
        )
        # Training is one run of max_steps over a stream that deals rows to replicas by itself.
        parser.set_defaults({"trainer.max_epochs": -1, "trainer.use_distributed_sampler": False})

    def before_instantiate_classes(self) -> None:
        """An empty tokenizer, as the recipes of evaluation have it, is the one in the model's own folder."""
        settings = self.config[self.subcommand] if self.subcommand else self.config
        data, model = (settings.get(part, {}).get("init_args", {}) for part in ("data", "model"))
        if data.get("tokenizer") == "" and model.get("pretrained"):
            data["tokenizer"] = model["tokenizer"] = model["pretrained"]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise ValueError(f"the trainer cannot be built from its settings: {error}") from error
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
        bar = trainer.progress_bar_callback
        if type(bar) is RichProgressBar:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks[callbacks.index(bar)] = TrainingBar()
        return trainer

    def _require_checkpoint(self) -> None:
        """Refuse a checkpoint that this run cannot go on from, before anything is built."""
        given = self.config[self.subcommand].get("ckpt_path")
        if given == "best":
            raise ValueError("--ckpt_path best is known only within the run that saved it: name the checkpoint's path")
        path = self._last_checkpoint() if given == "last" else given
        if path is None or path == "hpc" or "://" in str(path):
            return
        self.checkpoint = newest_path(Path(path))
        if self.subcommand == "fit":
            require_resumable(self.checkpoint, self.trainer.strategy)
        else:
            require_readable(self.checkpoint, self.trainer.strategy)
        if isinstance(self.model, PlannedTraining):
            self.model.resumes_from = self.checkpoint

    def _last_checkpoint(self) -> Path | None:
        """What Lightning takes for ``last``, or the newer one whose process was ended before it had that name."""
        writers = [each for each in self.trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
        folders = [(Path(each.dirpath), each.CHECKPOINT_NAME_LAST) for each in writers if each.dirpath is not None]
        found = [path for folder, name in folders if (path := last_checkpoint(folder, name)) is not None]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    before_fit = before_validate = before_test = before_predict = _require_checkpoint

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        found = super()._prepare_subcommand_kwargs(subcommand)
        return found if self.checkpoint is None else {**found, "ckpt_path": str(self.checkpoint)}

    def _parse_ckpt_path(self) -> None:
        """Keep the command line's model: a checkpoint brings weights, it does not change arguments in silence."""


class FitReader(CrosstaskCLI):
    """Parses what ``crosstask fit`` would run, and hands it to a command instead: nothing is built."""

    def __init__(self, command: Callable[..., Any], words: Sequence[str]) -> None:
        self.command = command
        super().__init__(parser_class=Parser, subclass_mode_model=True, subclass_mode_data=True, args=["fit", *words])

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_function_arguments(self.command, skip={"configuration"})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        with warnings.catch_warnings():
            # It takes them for a second set of words beside the program's own.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
            super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """A command about a fit needs neither trainer nor model, nor their hardware."""

    def _run_subcommand(self, subcommand: str) -> None:
        settings = self.config[subcommand]
        options = {name: settings[name] for name in inspect.signature(self.command).parameters if name in settings}
        self.command(configuration=settings.as_dict(), **options)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: The words after ``crosstask``; those of this process if None.
    """
    # Lightning 2.6 asks torch 2.13 in a way that torch warns of on every run; users can do nothing about it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # What it warns of, that a model may have been stepped before it is saved, is what a checkpoint should hold here.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] in DATA_COMMANDS:
        DATA_COMMANDS[words[0]](words[1:])
        return
    if words and words[0] in FIT_COMMANDS:
        FitReader(FIT_COMMANDS[words[0]], words[1:])
        return
    if words and words[0] in COMMANDS:
        command = COMMANDS[words[0]]
        auto_cli(
            command,
            args=name_leading_words(command, words[1:]),
            as_positional=False,
            parser_class=Parser,
            prog=f"crosstask {words[0]}",
            description=(inspect.getdoc(command) or "").split("\n\n")[0],
        )
        return
    if words and not words[0].startswith("-") and words[0] not in CrosstaskCLI.subcommands():
        known = {**COMMANDS, **DATA_COMMANDS, **FIT_COMMANDS, **CrosstaskCLI.subcommands()}
        raise ValueError(f"no command {words[0]!r}, {nearest(words[0], known)}; there are {', '.join(sorted(known))}")
    run(None if args is None else words)
    # Lightning leaves a gloo group to the interpreter's exit, where its threads can abort a run that has succeeded.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def program() -> None:
    """The program ``crosstask``: what it refuses is said in its own words, without the calls that led there."""
    try:
        main()
    except (ValueError, MisconfigurationException) as error:
        said = is_ours(error) or isinstance(error, MisconfigurationException)
        if not said or os.environ.get("CROSSTASK_TRACEBACK"):
            raise
        raise SystemExit(f"crosstask: {error}\n(CROSSTASK_TRACEBACK=1 shows where this was found.)") from None


def name_leading_words(command: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Words before the first option as the command's first argument, a list.

    >>> name_leading_words(write_report, ["runs/a", "runs/b", "--stage", "validation"])
    ['--runs=["runs/a", "runs/b"]', '--stage', 'validation']
    """
    leading = list(takewhile(lambda word: not word.startswith("-"), words))
    first = next(iter(inspect.signature(command).parameters))
    return ([f"--{first}={json.dumps(leading)}"] if leading else []) + list(words[len(leading) :])


def run(args: ArgsType) -> CrosstaskCLI:
    """Run one of the trainer's commands and hand back what was built."""
    others = ", ".join(sorted({**COMMANDS, **DATA_COMMANDS, **FIT_COMMANDS}))
    return CrosstaskCLI(
        parser_class=Parser,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"description": f"Besides these, without a trainer: {others} (NAME --help)."},
        args=args,
    )


if __name__ == "__main__":
    program()
