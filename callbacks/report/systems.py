"""``crosstask report``: a page, Markdown and JSON from the predictions of one run or of several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ...lightning_modules.evaluation.aggregation import ScoredInstance
from ...lightning_modules.evaluation.significance import require_single
from .comparison import System, SystemsReport, compare, readings_of, short_names
from .predictions import Prediction, find_predictions, read_predictions, written_coverage
from .scores import build_report


class SystemPredictions(NamedTuple):
    """The predictions of a system's runs, read from `files`."""

    name: str
    files: list[Path]
    runs: list[list[Prediction]]

    def rows(self) -> list[list[ScoredInstance]]:
        return [[prediction.instance for prediction in run] for run in self.runs]


def name_runs(words: Sequence[str]) -> dict[str, list[Path]]:
    """The folders of each system by its name: the one it is given, or as much of the folder's path as tells it apart.

    >>> name_runs(["base=runs/a", "runs/b,runs/c"])
    {'base': [PosixPath('runs/a')], 'b, c': [PosixPath('runs/b'), PosixPath('runs/c')]}
    """
    if not words:
        raise ValueError("name at least one run's folder: crosstask report runs/quickstart")
    parsed = [_parsed(word) for word in words]
    short = short_names([folder for _, folders in parsed for folder in folders])
    found: dict[str, list[Path]] = {}
    for given, folders in parsed:
        name = given or ", ".join(short[folder] for folder in folders)
        if name in found:
            raise ValueError(f"two systems are called {name!r}: give one another name, as in NAME=FOLDER")
        found[name] = folders
    return found


def _parsed(word: str) -> tuple[str, list[Path]]:
    """A system's name, empty where none is given, and its folders."""
    given, sign, rest = word.partition("=")
    has_name = bool(sign) and "/" not in given
    folders = [Path(part) for part in (rest if has_name else word).split(",") if part]
    if not folders or (has_name and not given):
        raise ValueError(f"expected FOLDER, FOLDER,FOLDER or NAME=FOLDER, got {word!r}")
    return given if has_name else "", folders


def read_system(name: str, folders: Sequence[Path], stage: str) -> SystemPredictions:
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
    readings: int = 5,
) -> SystemsReport:
    """Reports of all systems, each one's differences from the first, and predictions to read."""
    base, *others = systems
    return SystemsReport(
        stage=stage,
        by=by,
        systems=[
            System(
                s.name,
                [str(file) for file in s.files],
                build_report(s.rows(), by=by, coverage=written_coverage(s.files[0])),
            )
            for s in systems
        ],
        comparisons=[compare((base.name, base.rows()), (other.name, other.rows()), by=by) for other in others],
        readings=readings_of({system.name: system.runs[0] for system in systems}, readings),
    )
