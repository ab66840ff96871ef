"""Parsing of a run's settings as in ``crosstask fit``, without building trainer, model or data."""

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import SUPPRESS
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from .linked_cli import LinkedCLI


class SettingsReader(LinkedCLI):
    """LightningCLI that only parses: attribute ``settings`` has the settings, and no object is built.

    A plan for 128 GPUs, or a report of the mixture, needs neither the run's hardware nor its weights.

    Args:
        program: Name of the program in the help, e.g. ``"crosstask plan"``.
        words: The words after the command's name.
        add_options: Function that adds the command's own options to the parser.
    """

    def __init__(
        self, program: str, words: Sequence[str], add_options: Callable[[LightningArgumentParser], None] | None = None
    ) -> None:
        self.add_options = add_options
        usage = f"{program} --config FILE [options]"
        super().__init__(words, run=False, parser_kwargs={"prog": program, "usage": usage})

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Trainer, "trainer")
        # A YAML of data alone is enough to prepare or describe it.
        parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True, required=False)
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        for name in ("ckpt_path", "changed_stream", "without"):  # a saved config.yaml has them
            parser.add_argument(f"--{name}", type=Any, default=None, help=SUPPRESS)
        if self.add_options is not None:
            self.add_options(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        self.config["seed_everything"] = False  # nothing is drawn here, and Lightning would report the seed

    def instantiate_classes(self) -> None:
        """Build nothing."""
