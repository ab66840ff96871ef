"""Systems side by side: differences on shared instances, and predictions worth reading."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...datamodules.schema import LEVELS
from ...lightning_modules.evaluation.aggregation import Cell, cells
from ...lightning_modules.evaluation.significance import (
    Difference,
    Resampling,
    average_runs,
    difference,
    paired_differences,
)
from .predictions import Prediction
from .scores import Report, Runs

Key = tuple[str, str, int, str]
"""Benchmark, task, shots and id of an instance."""


def short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """As much of the end of each path as tells it from the others; a version alone says of what it is.

    >>> [*short_names([Path("/data/runs/opt/version_0"), Path("/data/runs/t5/version_0")]).values()]
    ['opt/version_0', 't5/version_0']
    """
    parts = {folder: folder.absolute().parts for folder in folders}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {folder: "/".join(path[-length:]).replace("//", "/") for folder, path in parts.items()}
        vague = any(name.startswith("version_") and "/" not in name for name in names.values())
        if len(set(names.values())) == len(names) and not vague:
            return names
    return {folder: str(folder) for folder in folders}


@dataclass(frozen=True)
class System:
    """What is reported under one name: a run, or several that repeat each other with other seeds."""

    name: str
    runs: list[str]
    report: Report


@dataclass(frozen=True)
class Contrast:
    """How much higher the other system scores in a cell that is a mean of `of` parts."""

    cell: Cell
    difference: Difference
    of: int


@dataclass(frozen=True)
class Comparison:
    """One system against the base, on the instances that both answered.

    Args:
        base: Name of the first system.
        other: Name of the second.
        shared: Instances that both answered, and all repeated runs of each.
        only_base: Instances that are left out because the other did not answer them.
        only_other: The reverse.
        contrasts: Differences in every cell.
    """

    base: str
    other: str
    shared: int
    only_base: int
    only_other: int
    contrasts: list[Contrast]


@dataclass(frozen=True)
class Reading:
    """An instance to read: what was asked, what was expected, and what each system answered, with its score."""

    level: str
    category: str
    task: str
    shots: int
    id: str
    metric: str
    prompt: str
    references: tuple[str, ...]
    answers: dict[str, str]
    scores: dict[str, float]


@dataclass(frozen=True)
class SystemsReport:
    """All that ``crosstask report`` shows.

    Args:
        stage: Which predictions were read.
        by: What a column is, see ``aggregation.columns``.
        systems: One or more; the first is the base of comparisons.
        comparisons: Each other system against the base.
        readings: Headings and instances to read under each.
    """

    stage: str
    by: str
    systems: list[System]
    comparisons: list[Comparison]
    readings: dict[str, list[Reading]]


def compare(
    base: tuple[str, Runs], other: tuple[str, Runs], *, by: Literal["category", "benchmark"] = "category"
) -> Comparison:
    """The paired bootstrap over shared instances; of repeated runs, each instance has its mean over them.

    Raises:
        ValueError: The systems share no instance.
    """
    of_base, of_other = average_runs(base[1]), average_runs(other[1])
    pairs = paired_differences(of_base, of_other)
    if not pairs:
        raise ValueError(
            f"{base[0]} and {other[0]} answered no instance in common, so they cannot be compared; "
            "evaluate both on the same tasks"
        )
    found = cells(pairs, Resampling(), by)
    return Comparison(
        base=base[0],
        other=other[0],
        shared=len(pairs),
        only_base=len(of_base) - len(pairs),
        only_other=len(of_other) - len(pairs),
        contrasts=[Contrast(cell, difference(np.asarray(value)), of) for cell, (value, of) in found.items()],
    )


def readings_of(systems: dict[str, Sequence[Prediction]], count: int) -> dict[str, list[Reading]]:
    """The worst and the best answers of one system; of several, also where they part most from the first.

    At most one instance of a task stands under a heading, so that there is something to see; among equals, those of
    the level farthest from training and the shortest prompts come first.

    Args:
        systems: Predictions by the system's name; of repeated runs, one run's.
        count: Instances under each heading.
    """
    by_key = {name: {_key(prediction): prediction for prediction in found} for name, found in systems.items()}
    base, *others = systems
    shared = [_reading(key, by_key) for key in by_key[base] if all(key in by_key[other] for other in others)]

    def mean(reading: Reading) -> float:
        return float(np.mean(list(reading.scores.values())))

    found = {"Worst answers": _chosen(shared, mean, count), "Best answers": _chosen(shared, lambda r: -mean(r), count)}
    for other in others:

        def gain(reading: Reading, other: str = other) -> float:
            return reading.scores[other] - reading.scores[base]

        def loss(reading: Reading, other: str = other) -> float:
            return reading.scores[base] - reading.scores[other]

        better = [reading for reading in shared if gain(reading) > 0]
        worse = [reading for reading in shared if gain(reading) < 0]
        found[f"Where {other} is better than {base}"] = _chosen(better, loss, count)
        found[f"Where {other} is worse than {base}"] = _chosen(worse, gain, count)
    return {heading: chosen for heading, chosen in found.items() if chosen}


def _key(prediction: Prediction) -> Key:
    row = prediction.instance
    return row.benchmark, row.task, row.shots, row.id


def _reading(key: Key, by_key: dict[str, dict[Key, Prediction]]) -> Reading:
    answered = {name: found[key] for name, found in by_key.items()}
    first = next(iter(answered.values()))
    row = first.instance
    return Reading(
        *(row.level, row.category, row.task, row.shots, row.id, row.metric, first.prompt, first.references),
        answers={name: prediction.prediction for name, prediction in answered.items()},
        scores={name: prediction.instance.score for name, prediction in answered.items()},
    )


def _chosen(found: Sequence[Reading], order: Callable[[Reading], float], count: int) -> list[Reading]:
    """The first `count` in order, one of a task."""
    ordered = sorted(
        found,
        key=lambda reading: (order(reading), -LEVELS.index(reading.level), len(reading.prompt), reading.id),
    )
    first_of_task = {(reading.task, reading.shots): reading for reading in reversed(ordered)}
    chosen = {id(reading) for reading in first_of_task.values()}
    return [reading for reading in ordered if id(reading) in chosen][:count]
