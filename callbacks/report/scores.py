"""The generalization report in numbers: scores by level, category and task, in both papers' aggregations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...datamodules.evaluation.coverage import Coverage
from ...datamodules.schema import LEVELS
from ...lightning_modules.evaluation.aggregation import (
    Cell,
    ScoredInstance,
    TaskScore,
    Value,
    cells,
    counts,
    grouped,
    task_scores,
)
from ...lightning_modules.evaluation.significance import Estimate, Resampling, bootstrap, interval, seed_interval

METRICS = {"score": "Own metric", "rouge_l": "ROUGE-L", "exact_match": "Exact match"}
"""What every instance is scored by: the metric of its task, and both that any answer has."""


@dataclass(frozen=True)
class Group:
    """Pooled instances: how many tasks they come from, and an estimate for each metric.

    ``metric``, ``level`` and ``category`` are those of its tasks, ``"mixed"`` where they have several.
    """

    name: str
    shots: int
    metric: str
    tasks: int
    estimates: Mapping[str, Estimate]
    level: str = ""
    category: str = ""

    @property
    def instances(self) -> int:
        return next(iter(self.estimates.values())).count if self.estimates else 0


@dataclass(frozen=True)
class Mean:
    """A score in OPT-IML's aggregation; ``of`` counts what it is the mean of, see ``Cell``."""

    cell: Cell
    estimate: Estimate
    of: int


@dataclass(frozen=True)
class Report:
    """Scores of one evaluation, or of repeated ones whose intervals are then over the runs.

    Instances are pooled in the first four, as Super-NaturalInstructions is scored officially; the others are OPT-IML's
    means of means. The two never mix numbers of shots, but for the selection score.

    Args:
        overall: All instances, for each number of shots.
        levels: The three levels of generalization, in order; one without tasks has no estimates.
        categories: Each category by its headline metric.
        tasks: Each task.
        selection: The mean over all columns, to choose a model by.
        averages: The mean over columns, for each number of shots.
        level_means: The mean over the columns of each level.
        columns: The mean over the tasks of each category (or benchmark) at each level.
        not_counted: Tasks that no column holds, with their shots: a summary is counted without demonstrations.
        unscored: Examples that were to be asked and were not, as in a run with limited batches.
        runs: How many runs it is of.
        coverage: What of a table's listed tasks was run, where there is a list.
    """

    overall: list[Group]
    levels: list[Group]
    categories: list[Group]
    tasks: list[Group]
    selection: Mean | None
    averages: list[Mean]
    level_means: list[Mean]
    columns: list[Mean]
    not_counted: list[str]
    unscored: int
    runs: int
    coverage: Coverage | None = None


Runs = Sequence[Sequence[ScoredInstance]]
"""Scored instances of one run, or of several that repeat it with other seeds."""


def build_report(
    runs: Runs,
    *,
    by: Literal["category", "benchmark"] = "category",
    asked: int | None = None,
    coverage: Coverage | None = None,
) -> Report:
    """Every score of an evaluation.

    Args:
        runs: One run's instances, or several runs' that repeat each other.
        by: What a column is, see ``aggregation.columns``.
        asked: How many examples were to be asked in all runs; those that were scored where it is left out.
        coverage: What of a table's listed tasks was run.
    """
    rows = [row for run in runs for row in run]
    shots = sorted({row.shots for row in rows}) or [0]
    levels = {(group.name, group.shots): group for group in _groups(runs, lambda row: (row.level, row.shots))}
    means = [Mean(cell, estimate, of) for cell, (estimate, of) in _estimates(runs, by).items()]
    of_kind = {kind: [mean for mean in means if mean.cell.kind == kind] for kind in ("average", "level", "column")}
    return Report(
        overall=sorted(_groups(runs, lambda row: ("overall", row.shots)), key=lambda group: group.shots),
        levels=[levels.get((level, k), Group(level, k, "", 0, {})) for k in shots for level in LEVELS],
        categories=_by_name(_groups(runs, lambda row: (row.category, row.shots, row.metric))),
        tasks=_by_name(_groups(runs, lambda row: (row.task, row.shots, row.benchmark))),
        selection=next((mean for mean in means if mean.cell.kind == "selection"), None),
        averages=of_kind["average"],
        level_means=of_kind["level"],
        columns=of_kind["column"],
        not_counted=_not_counted(task_scores(rows)),
        unscored=(len(rows) if asked is None else asked) - len(rows),
        runs=len(runs),
        coverage=coverage,
    )


def _by_name(groups: list[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (group.name, group.shots, group.metric))


def _not_counted(tasks: Sequence[TaskScore]) -> list[str]:
    return [f"{task.task} ({task.category}, {task.shots} shots)" for task in tasks if not counts(task)]


def _groups(runs: Runs, key: Callable[[ScoredInstance], tuple[object, ...]]) -> list[Group]:
    """Pooled instances by a key that begins with the group's name and its shots."""
    by_run = [grouped(run, key) for run in runs]
    found = []
    for name, shots, *rest in dict.fromkeys(key_ for groups in by_run for key_ in groups):
        members = [groups[name, shots, *rest] for groups in by_run if (name, shots, *rest) in groups]
        rows = [row for run in members for row in run]
        found.append(
            Group(
                name=str(name),
                shots=rows[0].shots,
                metric=_one_of(row.metric for row in rows),
                tasks=len({(row.benchmark, row.task) for row in rows}),
                estimates={metric: pooled_estimate([_values(run, metric) for run in members]) for metric in METRICS},
                level=_one_of(row.level for row in rows),
                category=_one_of(row.category for row in rows),
            )
        )
    return found


def _one_of(names: Iterable[str]) -> str:
    distinct = set(names)
    return distinct.pop() if len(distinct) == 1 else "mixed"


def _values(rows: Sequence[ScoredInstance], metric: str) -> NDArray[np.float64]:
    return np.array([getattr(row, metric) for row in rows], dtype=np.float64)


def pooled_estimate(runs: Sequence[NDArray[np.float64]]) -> Estimate:
    """The mean of a run's instances with its bootstrap interval; of several runs, the interval over them."""
    if len(runs) == 1:
        return bootstrap(runs[0])
    return seed_interval([float(values.mean()) for values in runs], max(map(len, runs)))


def _estimates(runs: Runs, by: Literal["category", "benchmark"]) -> dict[Cell, tuple[Estimate, int]]:
    """OPT-IML's scores with intervals; a cell that only one of several runs has is estimated from that one."""
    by_run = [cells(run, Resampling(), by) for run in runs]
    found = {}
    for cell in dict.fromkeys(cell for run in by_run for cell in run):
        values = [run[cell] for run in by_run if cell in run]
        found[cell] = _estimate([value for value, _ in values], values[0][1]), values[0][1]
    return found


def _estimate(values: Sequence[Value], count: int) -> Estimate:
    arrays = [np.asarray(value) for value in values]
    if len(arrays) == 1:
        return interval(arrays[0], count)
    return seed_interval([float(array[0]) for array in arrays], count)
