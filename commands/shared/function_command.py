"""Commands that are one typed function, whose arguments are the command's options."""

import inspect
import json
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from jsonargparse import auto_cli

from .command_docs import command_doc
from .config_names import with_config_paths
from .parser import HelpFormatter, SentenceParser, import_classes


def run_function(function: Callable[..., Any], words: Sequence[str], *, benchmarks: bool = False) -> None:
    """Call a command's function with the options of a command line.

    Args:
        function: Function in the command's file; its ``Args:`` sentences are the options' help.
        words: The words after the command's name. Words before the first option are the function's first argument.
        benchmarks: Whether an argument is a ``Benchmark``, which options give by the name of its class.
    """
    if benchmarks:
        import_classes("datamodules.benchmarks")
        from ...datamodules import Bench, Suite  # noqa: F401  # readers, too
    name = function.__module__.rpartition(".")[2]
    doc = command_doc(name)
    auto_cli(
        function,
        args=with_config_paths(name_leading_words(function, true_flags(function, words))),
        as_positional=False,
        parser_class=SentenceParser,
        prog=f"crosstask {name}",
        description=doc.description,
        epilog=doc.example,
        formatter_class=HelpFormatter,
    )


def true_flags(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Return the words, with ``--option=true`` for each option of type bool that is given without a value.

    >>> def download(collections: list[str], dry_run: bool = False, verify: bool = False) -> None: ...
    >>> true_flags(download, ["flan", "--dry_run", "--verify", "false"])
    ['flan', '--dry_run=true', '--verify', 'false']
    """
    flags = {f"--{name}" for name, one in inspect.signature(function).parameters.items() if one.annotation is bool}
    following = [*words, "--"][1:]
    return [
        f"{word}=true" if word in flags and after.startswith("--") else word
        for word, after in zip(words, following, strict=True)
    ]


def name_leading_words(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Write the words before the first option as the function's first argument, a list.

    >>> def write_report(runs: list[str], stage: str) -> None: ...
    >>> name_leading_words(write_report, ["runs/a", "runs/b", "--stage", "validation"])
    ['--runs=["runs/a", "runs/b"]', '--stage', 'validation']
    """
    leading = list(takewhile(lambda word: not word.startswith("-"), words))
    first = next(iter(inspect.signature(function).parameters))
    return ([f"--{first}={json.dumps(leading)}"] if leading else []) + list(words[len(leading) :])
