"""LightningCLI for the classes of crosstask: links arguments of data and model, and reads configurations by name."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import SUPPRESS
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from ...datamodules.hub_names import with_revision
from .config_names import with_config_paths
from .default_settings import fill_open_settings, given_settings, mapping_of, options, with_default_config
from .parser import ROOMS, SentenceParser, import_classes

LINKS = {
    "tokenizer": "tokenizer",
    "rows.length": "row_length",
    "preset": "preset",
    "levels.inner_steps": "inner_steps",
    "instructions.length": "instruction.length",
    "instructions.exemplars": "instruction.exemplars",
    "instructions.demonstrations": "instruction.demonstrations",
}
"""Arguments of a datamodule that also set an argument of the module, with the module's name. Classes without such an
argument are not affected."""

SOURCES = ("pretrained", "config")
"""Arguments of a module for its model: a pretrained one, or a configuration; only one of them is used."""


class Parser(SentenceParser, LightningArgumentParser):
    """Lightning's argument parser, which reports the error of a constructor as one sentence (``SentenceParser``)."""


class LinkedCLI(LightningCLI):
    """LightningCLI that copies arguments on which data and model must agree from one to the other.

    Args:
        words: The words of the command line.
        settings: Further arguments of LightningCLI.
    """

    def __init__(self, words: Sequence[str], **settings: Any) -> None:
        import_classes(*ROOMS)
        super().__init__(
            parser_class=Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # --optimizer and --lr_scheduler would have no effect on our modules
            args=list(words),
            **settings,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--include", type=Any, default=None, help=SUPPRESS)  # expanded by with_config_paths
        for source, target in LINKS.items():
            parser.link_arguments(f"data.init_args.{source}", f"model.init_args.{target}")
        parser.link_arguments("trainer.max_steps", "model.init_args.total_steps")
        # The responses to an instruction stay together where they are compared.
        parser.link_arguments(
            "model.init_args.loss", "data.init_args.rows.grouped", compute_fn=lambda loss: loss != "regression"
        )
        # Training is one run of max_steps over a stream that distributes rows over replicas by itself.
        parser.set_defaults({"trainer.max_epochs": -1, "trainer.use_distributed_sampler": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        words = with_config_paths(args)
        with warnings.catch_warnings():
            # Lightning takes them for a second set of words beside the program's own.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
            super().parse_arguments(parser, with_default_config(words))
        self.given = given_settings(words)
        """Names of the settings that files or options have; the others have their defaults."""
        self.settings["include"] = None  # a saved configuration holds the included settings themselves
        if overridden := overridden_source(words):
            self.settings["model"]["init_args"][overridden] = None

    @property
    def settings(self) -> Any:
        """The parsed configuration of the subcommand, or of the program if it has none."""
        return self.config[self.config["subcommand"]] if "subcommand" in self.config else self.config

    def before_instantiate_classes(self) -> None:
        """Fill settings that files and options leave open; the default tokenizer is that of the pretrained model."""
        self.defaults = fill_open_settings(self.settings, self.given)
        """A sentence about each default that was chosen for this run."""
        data, model = ((self.settings.get(part) or {}).get("init_args", {}) for part in ("data", "model"))
        pretrained = model.get("pretrained")
        if pretrained and data.get("tokenizer") in ("", pretrained):
            data["tokenizer"] = model["tokenizer"] = with_revision(pretrained, model.get("revision"))


def require_tokenizer(settings: Any) -> None:
    """Reject settings without a tokenizer, for commands that tokenize.

    Raises:
        ValueError: No tokenizer is given, and no pretrained model that has one.
    """
    if ((settings.get("data") or {}).get("init_args") or {}).get("tokenizer") == "":
        raise ValueError("no tokenizer is given, and no `pretrained` to take it from: set --data.tokenizer")


def overridden_source(words: Sequence[str]) -> str | None:
    """Return the argument, ``pretrained`` or ``config``, that a later one of the two replaces; None if none does.

    >>> overridden_source(["--model.pretrained", "facebook/opt-1.3b", "--model.init_args.config", "tiny.json"])
    'pretrained'
    """
    mentioned = [names for names in map(set, _mentions(words)) if names]
    if not mentioned or len(mentioned[-1]) > 1 or not set().union(*mentioned) > mentioned[-1]:
        return None
    return next(name for name in SOURCES if name not in mentioned[-1])


def _mentions(words: Sequence[str]) -> list[list[str]]:
    """Return, for each option, which of ``pretrained`` and ``config`` it sets."""
    mentions = []
    for name, value in options(words):
        if name in ("config", "c"):
            mentions.append(_sources(mapping_of(value).get("model")))
        elif name == "model":
            mentions.append(_sources(mapping_of(value)))
        elif name.startswith("model."):
            argument = name.removeprefix("model.").removeprefix("init_args.").partition(".")[0]
            mentions.append([argument] if argument in SOURCES and value not in ("null", "None", "") else [])
    return mentions


def _sources(model: Any) -> list[str]:
    arguments = model.get("init_args") if isinstance(model, Mapping) else None
    return [name for name in SOURCES if isinstance(arguments, Mapping) and arguments.get(name)]
