"""Comparison of systems: differences on shared instances, and qualitative examples."""

from collections.abc import Callable, Mapping, Sequence
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
from .scores import Runs, ScoreReport

InstanceKey = tuple[str, str, int, str]
"""Benchmark, task, shots and id of an instance."""


def short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Name each folder by the shortest end of its path that no other one has; ``version_<n>`` alone is not enough.

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
    """A system of a report, i.e. one run or its repetitions with other seeds, with its scores.

    Args:
        name: Name of the system in the report.
        runs: Folders of the runs.
        report: Scores over the runs.
    """

    name: str
    runs: list[str]
    report: ScoreReport


@dataclass(frozen=True)
class CellDifference:
    """Difference of one score (of a task, category, level or average) between two systems.

    Args:
        cell: The score that is compared.
        difference: The other system's score minus that of the base, with interval and p-value.
        parts: Number of instances, tasks or columns that the score is a mean of.
    """

    cell: Cell
    difference: Difference
    parts: int


@dataclass(frozen=True)
class Comparison:
    """A system compared with another one, the base, on the instances that both were evaluated on.

    Args:
        base: Name of the base.
        other: Name of the other system.
        shared: Number of instances that all runs of both systems were evaluated on.
        only_base: Number of instances that are left out because the other system was not evaluated on them.
        only_other: Number of instances that are left out because the base was not evaluated on them.
        differences: Other minus base, for every task, category, level and average.
    """

    base: str
    other: str
    shared: int
    only_base: int
    only_other: int
    differences: list[CellDifference]


@dataclass(frozen=True)
class QualitativeExample:
    """An instance with its prompt and references, and each system's prediction and score."""

    level: str
    category: str
    task: str
    shots: int
    id: str
    metric: str
    prompt: str
    references: tuple[str, ...]
    predictions: dict[str, str]
    scores: dict[str, float]


@dataclass(frozen=True)
class SystemsReport:
    """Content of the report that ``crosstask report`` writes.

    Args:
        stage: "test", "validation" or "predict".
        by: Tasks that are averaged into one column: those of a "category" or of a "benchmark".
        systems: One or more; the first is the base of comparisons.
        comparisons: Every other system against the base.
        examples: Qualitative examples, by heading.
    """

    stage: str
    by: str
    systems: list[System]
    comparisons: list[Comparison]
    examples: dict[str, list[QualitativeExample]]


def compare(
    base: tuple[str, Runs], other: tuple[str, Runs], *, by: Literal["category", "benchmark"] = "category"
) -> Comparison:
    """Compare two systems by a paired bootstrap over the instances that both were evaluated on.

    Repeated runs of a system are averaged by instance first.

    Args:
        base: Name and runs of the system that is subtracted.
        other: Name and runs of the other system.
        by: Tasks that are averaged into one column: those of a "category" or of a "benchmark".

    Raises:
        ValueError: The systems share no instance.
    """
    base_instances, other_instances = average_runs(base[1]), average_runs(other[1])
    pairs = paired_differences(base_instances, other_instances)
    if not pairs:
        raise ValueError(
            f"{base[0]} and {other[0]} have no evaluated instance in common, so they cannot be compared; "
            "evaluate both on the same tasks"
        )
    return Comparison(
        base=base[0],
        other=other[0],
        shared=len(pairs),
        only_base=len(base_instances) - len(pairs),
        only_other=len(other_instances) - len(pairs),
        differences=[
            CellDifference(cell, difference(np.asarray(resampled)), parts)
            for cell, (resampled, parts) in cells(pairs, Resampling(), by).items()
        ],
    )


def qualitative_examples(
    systems: Mapping[str, Sequence[Prediction]], count: int
) -> dict[str, list[QualitativeExample]]:
    """Choose examples for a report: the lowest and highest scores, and the largest differences from the first system.

    A heading lists at most one instance of a task. Among ties, the level farthest from training comes first, then the
    shortest prompt.

    Args:
        systems: Predictions by the system's name; for repeated runs, those of one run.
        count: Number of instances under each heading.
    """
    by_instance = {
        name: {_instance_key(prediction): prediction for prediction in predictions}
        for name, predictions in systems.items()
    }
    base, *others = systems
    shared = [
        _example(key, by_instance) for key in by_instance[base] if all(key in by_instance[other] for other in others)
    ]

    def mean(example: QualitativeExample) -> float:
        return float(np.mean(list(example.scores.values())))

    examples = {
        "Lowest scores": _first_of_each_task(shared, mean, count),
        "Highest scores": _first_of_each_task(shared, lambda example: -mean(example), count),
    }
    for other in others:
        examples |= _largest_differences(shared, base, other, count)
    return {heading: chosen for heading, chosen in examples.items() if chosen}


def _largest_differences(
    examples: Sequence[QualitativeExample], base: str, other: str, count: int
) -> dict[str, list[QualitativeExample]]:
    def gain(example: QualitativeExample) -> float:
        return example.scores[other] - example.scores[base]

    better = [example for example in examples if gain(example) > 0]
    worse = [example for example in examples if gain(example) < 0]
    return {
        f"{other} better than {base}": _first_of_each_task(better, lambda example: -gain(example), count),
        f"{other} worse than {base}": _first_of_each_task(worse, gain, count),
    }


def _instance_key(prediction: Prediction) -> InstanceKey:
    instance = prediction.instance
    return instance.benchmark, instance.task, instance.shots, instance.id


def _example(key: InstanceKey, by_instance: Mapping[str, Mapping[InstanceKey, Prediction]]) -> QualitativeExample:
    predictions = {name: of_system[key] for name, of_system in by_instance.items()}
    first = next(iter(predictions.values()))
    row = first.instance
    return QualitativeExample(
        *(row.level, row.category, row.task, row.shots, row.id, row.metric, first.prompt, first.references),
        predictions={name: prediction.prediction for name, prediction in predictions.items()},
        scores={name: prediction.instance.score for name, prediction in predictions.items()},
    )


def _first_of_each_task(
    examples: Sequence[QualitativeExample], order: Callable[[QualitativeExample], float], count: int
) -> list[QualitativeExample]:
    """Return the first `count` examples in ascending order, at most one for each task and number of shots."""
    ordered = sorted(
        examples,
        key=lambda example: (order(example), -LEVELS.index(example.level), len(example.prompt), example.id),
    )
    first_of_task = {(example.task, example.shots): example for example in reversed(ordered)}
    chosen = {id(example) for example in first_of_task.values()}
    return [example for example in ordered if id(example) in chosen][:count]
