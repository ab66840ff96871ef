"""The settings of a run, parsed as ``crosstask fit`` parses them, without building trainer, model or data."""

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import SUPPRESS
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from .linked_cli import LinkedCLI


class SettingsReader(LinkedCLI):
    """Parses the options of a run: a plan for 128 GPUs and a mixture need none of the run's hardware or weights."""

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
