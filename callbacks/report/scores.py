"""Scores of the generalization report by level, category and task, in two aggregations.

Pooled instances are the official scores of Super-NaturalInstructions; means of means are those of OPT-IML.
"""

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

METRICS = {"score": "Task metric", "rouge_l": "ROUGE-L", "exact_match": "Exact match"}
"""Metrics of every instance: that of its task, and two that all predictions have."""


@dataclass(frozen=True)
class Group:
    """Scores of a task, a category, a level or everything, as means over all of its instances (pooled).

    Args:
        name: Name of the task, category or level; ``overall`` for all instances.
        shots: Number of demonstrations in the prompts.
        metric: Metric of the tasks, or "mixed" if they differ.
        tasks: Number of tasks.
        estimates: Mean and interval for each of ``METRICS``.
        level: Level of generalization of the tasks, or "mixed".
        category: Category of the tasks, or "mixed".
        unread: Number of instances of one run whose references ROUGE-L cannot read.
        erased: Number of instances of one run of whose references the task's rule leaves nothing.
    """

    name: str
    shots: int
    metric: str
    tasks: int
    estimates: Mapping[str, Estimate]
    level: str = ""
    category: str = ""
    unread: int = 0
    erased: int = 0

    @property
    def instances(self) -> int:
        return next(iter(self.estimates.values())).count if self.estimates else 0


@dataclass(frozen=True)
class Mean:
    """A score that is a mean of means, as OPT-IML averages: over tasks, columns or levels.

    Args:
        cell: Key of the score: an average, a level or a column.
        estimate: The mean with its interval.
        parts: Number of tasks or columns that it is the mean of.
    """

    cell: Cell
    estimate: Estimate
    parts: int


@dataclass(frozen=True)
class ScoreReport:
    """Scores of one run, or of repeated runs with intervals over the runs.

    The first four fields pool instances, the official scores of Super-NaturalInstructions; the others are OPT-IML's
    means of means. Only the selection score is a mean over several numbers of shots.

    Args:
        overall: All instances pooled, for each number of shots.
        levels: The three levels of generalization, in order; a level without tasks has no estimates.
        categories: Each category by its headline metric.
        tasks: Each task.
        selection: The mean over all columns, for model selection.
        averages: The mean over columns, for each number of shots.
        level_means: The mean over the columns of each level.
        columns: The mean over the tasks of each category (or benchmark) at each level.
        not_counted: Tasks of no column, with their shots: summarization counts at zero shots only.
        unscored: Examples of the evaluation set that were not evaluated, e.g. because batches were limited.
        runs: Number of runs.
        coverage: Which tasks of a published results table were evaluated; None without a table.
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
"""Scored instances of one run, or of repeated runs with different seeds."""


def build_report(
    runs: Runs,
    *,
    by: Literal["category", "benchmark"] = "category",
    expected: int | None = None,
    coverage: Coverage | None = None,
) -> ScoreReport:
    """Compute every score of an evaluation: means over pooled instances, and OPT-IML's means of means.

    Args:
        runs: Instances of one run, or of several that repeat it.
        by: Tasks that are averaged into one column: those of a "category" or of a "benchmark".
        expected: Number of examples in the evaluation set, over all runs; None for those that were scored.
        coverage: Which tasks of a published results table were evaluated; None without a table.
    """
    rows = [row for run in runs for row in run]
    shots = sorted({row.shots for row in rows}) or [0]
    levels = {(group.name, group.shots): group for group in _groups(runs, lambda row: (row.level, row.shots))}
    means = [Mean(cell, estimate, parts) for cell, (estimate, parts) in _estimates(runs, by).items()]
    of_kind = {kind: [mean for mean in means if mean.cell.kind == kind] for kind in ("average", "level", "column")}
    return ScoreReport(
        overall=sorted(_groups(runs, lambda row: ("overall", row.shots)), key=lambda group: group.shots),
        levels=[levels.get((level, k), Group(level, k, "", 0, {})) for k in shots for level in LEVELS],
        categories=_by_name(_groups(runs, lambda row: (row.category, row.shots, row.metric))),
        tasks=_by_name(_groups(runs, lambda row: (row.task, row.shots, row.benchmark))),
        selection=next((mean for mean in means if mean.cell.kind == "selection"), None),
        averages=of_kind["average"],
        level_means=of_kind["level"],
        columns=of_kind["column"],
        not_counted=_not_counted(task_scores(rows)),
        unscored=(len(rows) if expected is None else expected) - len(rows),
        runs=len(runs),
        coverage=coverage,
    )


def _by_name(groups: list[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (group.name, group.shots, group.metric))


def _not_counted(tasks: Sequence[TaskScore]) -> list[str]:
    return [f"{task.task} ({task.category}, {task.shots} shots)" for task in tasks if not counts(task)]


def _groups(runs: Runs, key: Callable[[ScoredInstance], tuple[object, ...]]) -> list[Group]:
    """Return pooled instances by a key that begins with the group's name and its shots."""
    by_run = [grouped(run, key) for run in runs]
    pooled = []
    for name, shots, *rest in dict.fromkeys(key_ for groups in by_run for key_ in groups):
        members = [groups[name, shots, *rest] for groups in by_run if (name, shots, *rest) in groups]
        rows = [row for run in members for row in run]
        pooled.append(
            Group(
                name=str(name),
                shots=rows[0].shots,
                metric=_common_name(row.metric for row in rows),
                tasks=len({(row.benchmark, row.task) for row in rows}),
                estimates={metric: pooled_estimate([_values(run, metric) for run in members]) for metric in METRICS},
                level=_common_name(row.level for row in rows),
                category=_common_name(row.category for row in rows),
                unread=max(sum(row.unread for row in run) for run in members),
                erased=max(sum(row.erased for row in run) for run in members),
            )
        )
    return pooled


def _common_name(names: Iterable[str]) -> str:
    distinct = set(names)
    return distinct.pop() if len(distinct) == 1 else "mixed"


def _values(rows: Sequence[ScoredInstance], metric: str) -> NDArray[np.float64]:
    return np.array([getattr(row, metric) for row in rows], dtype=np.float64)


def pooled_estimate(runs: Sequence[NDArray[np.float64]]) -> Estimate:
    """Return the mean over a run's instances with its bootstrap interval; for several runs, the interval over runs."""
    if len(runs) == 1:
        return bootstrap(runs[0])
    return seed_interval([float(values.mean()) for values in runs], max(map(len, runs)))


def _estimates(runs: Runs, by: Literal["category", "benchmark"]) -> dict[Cell, tuple[Estimate, int]]:
    """Return OPT-IML's scores with intervals, by cell; a cell of a single run is estimated from that run."""
    by_run = [cells(run, Resampling(), by) for run in runs]
    estimates = {}
    for cell in dict.fromkeys(cell for run in by_run for cell in run):
        values = [run[cell] for run in by_run if cell in run]
        parts = values[0][1]
        estimates[cell] = _estimate([value for value, _ in values], parts), parts
    return estimates


def _estimate(values: Sequence[Value], count: int) -> Estimate:
    arrays = [np.asarray(value) for value in values]
    if len(arrays) == 1:
        return interval(arrays[0], count)
    return seed_interval([float(array[0]) for array in arrays], count)
