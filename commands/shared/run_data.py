"""Commands about a run's data that need no model: ``crosstask prepare``, ``describe`` and ``decontaminate``.

They read the same YAML as ``crosstask fit``, and of it the data alone.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning import LightningDataModule

from ...datamodules import benchmarks
from ...datamodules.base import BenchmarkDataModule
from ...datamodules.messages import unknown_class_hint
from .parser import SentenceParser

OTHERS = ("seed_everything", "trainer", "model", "optimizer", "lr_scheduler", "ckpt_path")
"""What else a YAML of Lightning may hold; it is read over."""


class _Parser(SentenceParser):
    """Answers the name of an unknown reader with the nearest known ones, as the trainer's commands do."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(message + unknown_class_hint(message, ["Bench", *benchmarks.__all__]), ex)


def data_parser(description: str) -> ArgumentParser:
    parser = _Parser(description=description)
    parser.add_argument("--config", action="config", help="The YAML of a run; later ones override earlier ones.")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    for name in OTHERS:
        parser.add_argument(f"--{name}", type=Any, default=None, help="Read over.")
    return parser


def parsed_data(parser: ArgumentParser, words: Sequence[str]) -> tuple[Namespace, BenchmarkDataModule]:
    settings = parser.parse_args(list(words))
    data = parser.instantiate(settings).data
    if not isinstance(data, BenchmarkDataModule):
        raise ValueError(f"expected a datamodule of crosstask, got {type(data).__name__}")
    return settings, data
