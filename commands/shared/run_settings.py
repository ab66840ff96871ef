"""Commands that read the settings of a run without training: ``inspect``, ``prepare``, ``describe``, ``plan``, ..."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from .command_docs import command_doc
from .function_command import true_flags
from .parser import HelpFormatter, SentenceParser

if TYPE_CHECKING:
    from ...datamodules.base import BenchmarkDataModule
    from ...datamodules.benchmarks import Benchmark

Settings = Namespace
"""Parsed settings of a run: trainer, model and data."""


PARTS = {
    "data": "Settings of the data, e.g. --data.init_args.cache FOLDER; --data.help CLASS lists them.",
    "model": "Settings of the model; --model.help CLASS lists them.",
    "trainer": "Settings of Lightning's trainer, e.g. --trainer.max_steps 100.",
}


def run_on_settings(function: Callable[..., Any], words: Sequence[str], parts: Sequence[str] = ("data",)) -> None:
    """Call a command's function with the settings of a run and with the command's options.

    All options of ``crosstask fit`` are accepted; the command's help shows those that it uses.

    Args:
        function: Function in the command's file; its first parameter is the settings, the others are options.
        words: The words after the command's name.
        parts: Parts of the settings that the help shows: ``data``, ``model``, ``trainer``.
    """
    name = function.__module__.rpartition(".")[2]
    if {"-h", "--help"} & {*words}:
        _help_parser(name, function, parts).parse_args(["--help"])
    from .settings_reader import SettingsReader  # Lightning, which the help does not need

    words = true_flags(function, words)
    settings = SettingsReader(f"crosstask {name}", words, lambda parser: _add_options(parser, function)).settings
    function(settings, **{option: settings[option] for option in _options(function)})


def build_data(settings: Settings) -> "BenchmarkDataModule":
    """Build the datamodule of a run.

    Raises:
        ValueError: The datamodule is not one of crosstask's, or has no tokenizer.
    """
    from lightning import LightningDataModule

    from ...datamodules.base import BenchmarkDataModule
    from .linked_cli import require_tokenizer

    require_tokenizer(settings)
    parser = SentenceParser()
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    data = parser.instantiate(Namespace(data=settings["data"])).data
    if not isinstance(data, BenchmarkDataModule):
        raise ValueError(f"expected a datamodule of crosstask, got {type(data).__name__}")
    return data


def build_benchmark(settings: Settings) -> "Benchmark":
    """Build the benchmark of a run, without its datamodule and tokenizer.

    Raises:
        ValueError: The settings have no benchmark.
    """
    from ...datamodules.benchmarks import Benchmark
    from ...datamodules.benchmarks.own_data.file_tasks import as_benchmark

    benchmark = settings.get("data.init_args.benchmark")
    if benchmark is None:
        raise ValueError(
            "no benchmark is named: set --data.benchmark to a path of your files, or to the name of a benchmark class"
        )
    parser = SentenceParser()
    parser.add_argument("--benchmark", type=Benchmark | str)
    return as_benchmark(parser.instantiate(Namespace(benchmark=benchmark)).benchmark)


def _options(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)[1:]


def _add_options(parser: ArgumentParser, function: Callable[..., Any]) -> None:
    first = next(iter(inspect.signature(function).parameters))
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip={first})


def _help_parser(name: str, function: Callable[..., Any], parts: Sequence[str]) -> ArgumentParser:
    doc = command_doc(name)
    parser = SentenceParser(
        prog=f"crosstask {name}",
        usage=f"crosstask {name} --config FILE [options]",
        description=doc.description,
        epilog=doc.example,
        formatter_class=HelpFormatter,
    )
    explained = {"config": "YAML of a run, by path or by name; later ones override earlier ones."}
    for part, sentence in {**explained, **{part: PARTS[part] for part in parts}}.items():
        parser.add_argument(f"--{part}", help=sentence, default=SUPPRESS)
    _add_options(parser, function)
    return parser
