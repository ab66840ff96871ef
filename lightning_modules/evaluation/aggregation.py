"""From scores of instances to scores of tasks, categories and levels, in the order of the papers.

OPT-IML (arXiv 2212.12017, section 4.1) averages in steps, each over equals::

    instances -> subtype -> task -> the task over benchmarks -> category column -> level, average, selection

57 subjects are one MMLU, and RACE in two collections is one RACE, so that neither outweighs a task that stands alone.
Super-NaturalInstructions pools the instances of a category instead.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import lightning as L
import numpy as np
from numpy.typing import NDArray

from ...datamodules.base import run_data
from ...datamodules.schema import LEVELS, EvaluationExample, Level, Metric, Stage
from .metrics import Scores

Value = float | NDArray[np.float64]
"""A score, or [R] resampled scores: every step here is a mean, and takes either."""

ZERO_SHOT_ONLY = ("Summarization",)
"""Categories that OPT-IML counts without demonstrations alone: five articles do not fit into a row."""


class ScoredInstance(NamedTuple):
    """One answered example: where it belongs, and its scores in [0, 1]; ``score`` is by the task's own metric."""

    benchmark: str
    task: str
    parent: str | None
    category: str
    level: Level
    shots: int
    metric: Metric
    id: str
    score: float
    rouge_l: float
    exact_match: float


class TaskScore(NamedTuple):
    """The score of a task at one number of shots, over `instances` instances."""

    benchmark: str
    task: str
    parent: str | None
    category: str
    level: Level
    shots: int
    metric: str
    score: Value
    instances: int

    @property
    def family(self) -> str:
        """What it is called in every benchmark: its parent, or its name without a ``Bench``'s ``collection/``."""
        return self.parent or self.task.removeprefix(f"{self.benchmark}/")


class Column(NamedTuple):
    """A column of OPT-IML's tables: the mean over a category's (or a benchmark's) `tasks` tasks at one level."""

    level: Level
    name: str
    shots: int
    score: Value
    tasks: int


class PooledCategory(NamedTuple):
    """Super-NaturalInstructions' score of a category: its instances pooled, by the category's headline metric."""

    category: str
    metric: Metric
    shots: int
    score: float
    instances: int


def own_score(
    metric: Metric, rouge_l: float, exact_match: float, *, token_f1: float = math.nan, accuracy: float = math.nan
) -> float:
    """An instance's score by its task's metric; a choice without known options is right where it equals the reference.

    Raises:
        ValueError: The metric is token F1, and nobody took it.
    """
    if metric == "token_f1" and math.isnan(token_f1):
        raise ValueError("a task's metric is token_f1, and its answers have none: evaluate again")
    if metric == "accuracy" and not math.isnan(accuracy):
        return accuracy
    return {"rouge_l": rouge_l, "token_f1": token_f1}.get(metric, float(exact_match))


def scored_instances(scores: Scores, examples: Sequence[EvaluationExample]) -> list[ScoredInstance]:
    """Scores with what their examples say of them; examples that were not asked are absent."""
    by_number = {example.number: example for example in examples}
    return [
        ScoredInstance(
            *(example.benchmark, example.task, example.parent, example.category, example.level, example.shots),
            *(example.metric, example.id, own_score(example.metric, rouge, exact, token_f1=f1, accuracy=right)),
            *(rouge, exact),
        )
        for example, rouge, exact, f1, right in zip(
            (by_number[number] for number in scores.number.tolist()),
            *(scores.column(name).tolist() for name in ("rouge_l", "exact_match", "token_f1", "accuracy")),
            strict=True,
        )
    ]


T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, in the order of their first ones.

    >>> grouped(["ant", "bee", "ape"], key=lambda word: word[0])
    {'a': ['ant', 'ape'], 'b': ['bee']}
    """
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def mean_of(scores: Sequence[Value]) -> Value:
    """The mean of equals, one score or R resampled ones each."""
    return np.mean(np.stack([np.asarray(score) for score in scores]), axis=0)


def task_key(row: ScoredInstance) -> tuple[str, str, int]:
    """What makes instances one task: benchmark, name, shots."""
    return row.benchmark, row.task, row.shots


def task_scores(
    rows: Iterable[ScoredInstance], summary: Callable[[NDArray[np.float64]], Value] = np.mean
) -> list[TaskScore]:
    """Each task's score, the mean over its instances.

    Args:
        rows: Answered instances.
        summary: From a task's scores [n] to its score; another one resamples, see ``significance.resampled_means``.
    """
    return [
        TaskScore(
            *(first.benchmark, first.task, first.parent, first.category, first.level, first.shots, first.metric),
            *(summary(np.array([row.score for row in members])), len(members)),
        )
        for members in grouped(rows, task_key).values()
        for first in members[:1]
    ]


def join_subtypes(tasks: Iterable[TaskScore]) -> list[TaskScore]:
    """Make one task of those with the same parent in a benchmark: MMLU of its 57 subjects."""
    return _joined(tasks, lambda task: (task.benchmark, task.family))


def join_benchmarks(tasks: Iterable[TaskScore]) -> list[TaskScore]:
    """Make one task of those with the same name, or parent, in several benchmarks: RACE of two collections'."""
    return _joined(tasks, lambda task: task.family)


def _joined(tasks: Iterable[TaskScore], name: Callable[[TaskScore], Hashable]) -> list[TaskScore]:
    """Tasks of a name become one where level, category and shots are the same, too."""
    groups = grouped(tasks, lambda task: (name(task), task.level, task.category, task.shots))
    return [
        first._replace(
            benchmark=_listed(task.benchmark for task in members),
            task=first.family,
            parent=None,
            metric=_listed(task.metric for task in members),
            score=mean_of([task.score for task in members]),
            instances=sum(task.instances for task in members),
        )
        for members in groups.values()
        for first in members[:1]
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def columns(
    tasks: Iterable[TaskScore],
    by: Literal["category", "benchmark"] = "category",
    zero_shot_only: Collection[str] = ZERO_SHOT_ONLY,
) -> list[Column]:
    """OPT-IML's columns: the mean over the tasks of each category at each level and number of shots.

    Args:
        tasks: Scores of tasks as ``task_scores`` gives them: subtypes and benchmarks are joined here.
        by: Whether a column is a category, as in its Tables 4, 7 and 8, or a benchmark, as in Table 5, where a task
            that several benchmarks hold counts in each.
        zero_shot_only: Categories that do not count with demonstrations.
    """
    counted = [task for task in tasks if counts(task, zero_shot_only)]
    joined = join_subtypes(counted)
    if by == "category":
        joined = join_benchmarks(joined)
    groups = grouped(joined, lambda task: (task.level, getattr(task, by), task.shots))
    found = [
        Column(level, name, shots, mean_of([task.score for task in members]), len(members))
        for (level, name, shots), members in groups.items()
    ]
    return sorted(found, key=lambda column: (LEVELS.index(column.level), column.name, column.shots))


def counts(task: TaskScore, zero_shot_only: Collection[str] = ZERO_SHOT_ONLY) -> bool:
    """Whether a task's score enters a column; if not, a report should say so."""
    return task.shots == 0 or task.category not in zero_shot_only


def level_scores(found: Iterable[Column]) -> dict[tuple[Level, int], Value]:
    """The mean over the columns of each level, by (level, shots)."""
    groups = grouped(found, lambda column: (column.level, column.shots))
    return {key: mean_of([column.score for column in members]) for key, members in groups.items()}


def shot_averages(found: Iterable[Column]) -> dict[int, Value]:
    """The mean over all columns of all levels, by shots: "Average" in OPT-IML's Table 7."""
    groups = grouped(found, lambda column: column.shots)
    return {shots: mean_of([column.score for column in members]) for shots, members in groups.items()}


def selection_score(found: Iterable[Column]) -> Value:
    """One number to choose a model by: the mean over all columns at all numbers of shots (OPT-IML: 0 and 5).

    A level or a number of shots weighs as much as it has columns.

    Raises:
        ValueError: There is no column.
    """
    scores = [column.score for column in found]
    if not scores:
        raise ValueError("a selection score needs at least one task that counts")
    return mean_of(scores)


class Cell(NamedTuple):
    """Which score of an evaluation: of a task, a column, a level, all columns at a number of shots, or all of them.

    Args:
        kind: What it is a mean of: instances, tasks, or columns.
        level: Of tasks, columns and levels.
        name: The task's or the column's.
        shots: Of all but the selection score.
        benchmark: The task's.
        category: The task's.
    """

    kind: Literal["selection", "average", "level", "column", "task"]
    level: Level | None = None
    name: str = ""
    shots: int | None = None
    benchmark: str = ""
    category: str = ""


def cells(
    rows: Sequence[ScoredInstance],
    summary: Callable[[NDArray[np.float64]], Value] = np.mean,
    by: Literal["category", "benchmark"] = "category",
) -> dict[Cell, tuple[Value, int]]:
    """Every score of an evaluation, and of how many parts it is the mean: instances, tasks, or columns."""
    tasks = task_scores(rows, summary)
    found = columns(tasks, by)
    scores: dict[Cell, tuple[Value, int]] = {}
    if found:
        scores[Cell("selection")] = selection_score(found), len(found)
    for shots, score in sorted(shot_averages(found).items()):
        scores[Cell("average", shots=shots)] = score, sum(column.shots == shots for column in found)
    for (level, shots), score in level_scores(found).items():
        of_level = sum((column.level, column.shots) == (level, shots) for column in found)
        scores[Cell("level", level, shots=shots)] = score, of_level
    for column in found:
        scores[Cell("column", column.level, column.name, column.shots)] = column.score, column.tasks
    for task in sorted(tasks, key=lambda task: (LEVELS.index(task.level), task.category, task.task, task.shots)):
        cell = Cell("task", task.level, task.task, task.shots, task.benchmark, task.category)
        scores[cell] = task.score, task.instances
    return scores


def pooled_categories(rows: Iterable[ScoredInstance]) -> list[PooledCategory]:
    """Super-NaturalInstructions' official aggregation (its evaluation.py): instances of a category pooled.

    Its six classification categories are scored by exact match and the others by ROUGE-L, which is what its reader
    gives tasks as their metric. Tasks of another metric in the same category are a line of their own.
    """
    groups = grouped(rows, lambda row: (row.category, row.metric, row.shots))
    return [
        PooledCategory(category, metric, shots, float(np.mean([row.score for row in members])), len(members))
        for (category, metric, shots), members in sorted(groups.items())
    ]


def selection_of(scores: Scores, examples: Sequence[EvaluationExample]) -> Mapping[str, float]:
    """What training logs of a validation: ``selection`` and, for each number of shots, ``average_0_shot`` and so on."""
    found = columns(task_scores(scored_instances(scores, examples)))
    if not found:
        return {}
    averages = {f"average_{shots}_shot": float(score) for shots, score in sorted(shot_averages(found).items())}
    return {"selection": float(selection_score(found)), **averages}


def log_selection(module: L.LightningModule, stage: Stage, scores: Scores) -> None:
    """Log OPT-IML's averages over category columns; a ModelCheckpoint can monitor ``validation/selection``."""
    data = run_data(module.trainer)
    if data is not None:  # it knows the level and category of each example
        for name, score in selection_of(scores, data.evaluation_examples(stage)).items():
            module.log(f"{stage}/{name}", score)
