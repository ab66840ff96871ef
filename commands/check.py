"""Check a run's data files: what is read, skipped and repeated, and what would stop a training.

The exit status is 1 where an error would stop `crosstask fit`. All options of `crosstask fit` are accepted, and those
of the data are used.

Example:
    crosstask check --config quickstart
"""

import sys
from collections.abc import Sequence

from ..datamodules.visible_text import visible
from .shared.run_settings import Settings, build_data, run_on_settings


def run(words: Sequence[str]) -> None:
    """Check by the words of a command line."""
    run_on_settings(check_run, words)


def check_run(settings: Settings) -> None:
    """Check the benchmark of a run, and print the result.

    Args:
        settings: Of the run.

    Raises:
        SystemExit: With the status 1, if an error would stop a training.
    """
    from ..datamodules.inspection.benchmark_check import check_benchmark

    check = check_benchmark(build_data(settings).benchmark)
    print(visible("\n".join(check.lines())))
    if check.errors:
        sys.exit(1)
