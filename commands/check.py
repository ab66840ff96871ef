"""Check data files: read, skipped and repeated examples, and errors that would stop a training.

DATA is a file or a folder of your own tasks, or a dataset of the hub. With --config, the benchmark of a run is checked,
and all options of `crosstask fit` are accepted. The exit status is 1 if an error would stop `crosstask fit`.

Example:
    crosstask check mine.jsonl
    crosstask check questions.csv --columns '{input: question, output: answer}'
    crosstask check --config quickstart
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..datamodules.benchmarks.own_data.row_forms import Form
from ..datamodules.visible_text import visible
from .shared.function_command import run_function
from .shared.run_settings import Settings, build_benchmark, run_on_settings

if TYPE_CHECKING:
    from ..datamodules.benchmarks import Benchmark


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    if words and not words[0].startswith("-"):
        run_function(check_files, words)
    else:
        run_on_settings(check_run, words)


def check_files(
    data: Sequence[str],
    form: Form | None = None,
    columns: dict[str, str] | None = None,
    roles: dict[str, str] | None = None,
) -> None:
    """Check files of your own tasks, and print the result.

    Args:
        data: A file, a folder or a hub name; exactly one.
        form: Form of the rows; by default it is recognised from the columns, and reported.
        columns: Column of the file for each field of the form, e.g. ``{input: question, output: answer}``; by default
            the fields' names.
        roles: Role (system, user or assistant) of other names of speakers, e.g. ``{bot: assistant}``.

    Raises:
        SystemExit: With status 1, if an error would stop a training.
    """
    from ..datamodules.benchmarks.own_data.file_tasks import FileTasks, as_benchmark

    if isinstance(data, str) or len(data) != 1:
        raise ValueError(f"check takes one file or folder, got {data}")
    if form is None and columns is None and roles is None:
        print_check(as_benchmark(data[0]))
    else:
        print_check(FileTasks(data[0], form=form, columns=columns, roles=roles))


def check_run(settings: Settings) -> None:
    """Check the benchmark of a run, and print the result.

    Args:
        settings: Settings of the run.

    Raises:
        SystemExit: With status 1, if an error would stop a training.
    """
    print_check(build_benchmark(settings))


def print_check(benchmark: "Benchmark") -> None:
    """Check a benchmark, and print the result.

    Raises:
        SystemExit: With status 1, if an error would stop a training.
    """
    from ..datamodules.inspection.benchmark_check import check_benchmark

    check = check_benchmark(benchmark)
    print(visible("\n".join(check.lines())))
    if check.errors:
        sys.exit(1)
