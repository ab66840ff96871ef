"""Systems of ``crosstask report``: their names, the predictions of their runs, and the report over all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ...datamodules.messages import expanded
from ...lightning_modules.evaluation.aggregation import ScoredInstance
from ...lightning_modules.evaluation.significance import require_single
from .comparison import System, SystemsReport, compare, qualitative_examples, short_names
from .predictions import Prediction, find_predictions, read_predictions, written_coverage
from .scores import build_report


class SystemPredictions(NamedTuple):
    """Predictions of a system, i.e. of one run or of its repetitions with other seeds.

    Args:
        name: Name of the system.
        files: File of each run's predictions.
        runs: Predictions of each run.
    """

    name: str
    files: list[Path]
    runs: list[list[Prediction]]

    def instances(self) -> list[list[ScoredInstance]]:
        """Return the scored instances of each run."""
        return [[prediction.instance for prediction in run] for run in self.runs]


def parse_systems(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """Parse arguments like ``NAME=FOLDER`` or ``FOLDER,FOLDER``: return the folders of each system's runs by its name.

    A system without a name gets the shortest end of its path that no other one has.

    >>> parse_systems(["base=runs/a", "runs/b,runs/c"])
    {'base': [PosixPath('runs/a')], 'b, c': [PosixPath('runs/b'), PosixPath('runs/c')]}

    Raises:
        ValueError: There is no argument, or two systems have the same name.
    """
    if not arguments:
        raise ValueError("name at least one run's folder: crosstask report runs/quickstart")
    parsed = [_parse_system(argument) for argument in arguments]
    short = short_names([folder for _, folders in parsed for folder in folders])
    systems: dict[str, list[Path]] = {}
    for given, folders in parsed:
        name = given or ", ".join(short[folder] for folder in folders)
        if name in systems:
            raise ValueError(f"two systems are called {name!r}: give one another name, as in NAME=FOLDER")
        systems[name] = folders
    return systems


def _parse_system(argument: str) -> tuple[str, list[Path]]:
    """Return a system's name (empty if none is given) and its folders."""
    name, sign, rest = argument.partition("=")
    has_name = bool(sign) and "/" not in name
    folders = [expanded(part) for part in (rest if has_name else argument).split(",") if part]
    if not folders or (has_name and not name):
        raise ValueError(f"expected FOLDER, FOLDER,FOLDER or NAME=FOLDER, got {argument!r}")
    return name if has_name else "", folders


def read_system(name: str, folders: Sequence[Path], stage: str) -> SystemPredictions:
    """Return the predictions of a system's runs.

    Raises:
        ValueError: A run has no predictions of the stage, or is given twice.
    """
    files = [find_predictions(folder, stage) for folder in folders]
    if len(set(files)) < len(files):
        raise ValueError(f"{name}: the same predictions are given twice as repetitions of a run: {files[0]}")
    runs = [read_predictions(file) for file in files]
    for file, run in zip(files, runs, strict=True):
        require_single([prediction.instance for prediction in run], str(file))
    return SystemPredictions(name, files, runs)


def systems_report(
    systems: Sequence[SystemPredictions],
    *,
    stage: str,
    by: Literal["category", "benchmark"] = "category",
    examples: int = 5,
) -> SystemsReport:
    """Return the scores of all systems, their differences from the first, and qualitative examples.

    Args:
        systems: One or more; the first is the base of comparisons.
        stage: The stage whose predictions were read.
        by: Tasks that are averaged into one column: those of a "category" or of a "benchmark".
        examples: Number of qualitative examples under each heading.
    """
    base, *others = systems
    return SystemsReport(
        stage=stage,
        by=by,
        systems=[
            System(
                system.name,
                [str(file) for file in system.files],
                build_report(system.instances(), by=by, coverage=written_coverage(system.files[0])),
            )
            for system in systems
        ],
        comparisons=[
            compare((base.name, base.instances()), (other.name, other.instances()), by=by) for other in others
        ],
        examples=qualitative_examples({system.name: system.runs[0] for system in systems}, examples),
    )
