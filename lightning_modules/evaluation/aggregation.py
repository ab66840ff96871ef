"""Averages of instance scores over tasks, categories and levels of generalization, as in OPT-IML.

OPT-IML (arXiv 2212.12017, section 4.1) averages in steps, each an unweighted mean::

    instances -> subtype -> task -> the task over benchmarks -> category column -> level, average, selection

The 57 subjects of MMLU are one task, and RACE in two collections is one task, so that neither outweighs a single task.
Super-NaturalInstructions pools the instances of a category instead; see callbacks/report/scores.py.
"""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...datamodules.schema import LEVELS, EvaluationExample, Level, Metric, Stage
from .metrics import Scores
from .text_metrics import score_by_metric

if TYPE_CHECKING:  # a report needs no Lightning
    import lightning as L

Value = float | NDArray[np.float64]
"""A score, or [R] resampled scores; every step is a mean and takes either."""

ZERO_SHOT_ONLY = ("Summarization",)
"""Categories that OPT-IML counts zero-shot only: five articles do not fit into a row."""


HELD_OUT_FILES = re.compile("_(dev|test|held_out)$")
"""End of the name of a collection of official held-out files, e.g. ``flan_test`` beside ``flan``."""

OWN_COLUMNS = {"mmlu": "MMLU"}
"""Tasks that are a column by themselves in OPT-IML's Tables 4, 7 and 8, beside the column of their category."""


class ScoredInstance(NamedTuple):
    """One evaluated example with its groups and its scores in [0, 1].

    Args:
        benchmark: Name of the benchmark.
        task: Name of the task.
        parent: Task that this task is a subtype of, e.g. mmlu for its subjects; None if it is none.
        category: Category of the task.
        level: Level of generalization of the task.
        shots: Number of demonstrations in the prompt.
        metric: Metric of the task.
        id: Id of the example.
        score: Score by the task's metric.
        rouge_l: ROUGE-L.
        exact_match: 1 for an exact match, else 0.
        unread: Whether ROUGE-L finds no words in the references, e.g. in text without Latin letters.
        erased: Whether the task's rule of exact match leaves nothing of a reference, e.g. of one that is punctuation.
    """

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
    unread: bool = False
    erased: bool = False


class TaskScore(NamedTuple):
    """The mean score of a task over `instances` instances, evaluated with one number of demonstrations (`shots`)."""

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
        """The name that the task has in every benchmark: its parent, or its own name without a ``Bench``'s prefix."""
        return self.parent or self.task.removeprefix(f"{self.benchmark}/")


class Column(NamedTuple):
    """A column of OPT-IML's tables: the mean over `tasks` tasks of a category or benchmark (`name`).

    These tasks have the same level of generalization and are evaluated with the same number of demonstrations.
    """

    level: Level
    name: str
    shots: int
    score: Value
    tasks: int


def scored_instances(scores: Scores, examples: Sequence[EvaluationExample]) -> list[ScoredInstance]:
    """Join the scores of an evaluation with its examples; examples that were not scored are left out."""
    by_number = {example.number: example for example in examples}
    return [
        ScoredInstance(
            *(example.benchmark, example.task, example.parent, example.category, example.level, example.shots),
            *(example.metric, example.id, score_by_metric(example.metric, rouge, exact, token_f1=f1, accuracy=right)),
            *(rouge, exact, unread == 1, erased == 1),
        )
        for example, rouge, exact, f1, right, unread, erased in zip(
            (by_number[number] for number in scores.number.tolist()),
            *(scores.column(name).tolist() for name in _COLUMNS),
            strict=True,
        )
    ]


_COLUMNS = ("rouge_l", "exact_match", "token_f1", "accuracy", "unread", "erased")

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return items by key, in the order of first occurrence.

    >>> grouped(["ant", "bee", "ape"], key=lambda word: word[0])
    {'a': ['ant', 'ape'], 'b': ['bee']}
    """
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def mean_of(scores: Sequence[Value]) -> Value:
    """Return the unweighted mean of scores, or of arrays of R resampled scores."""
    return np.mean(np.stack([np.asarray(score) for score in scores]), axis=0)


def task_key(row: ScoredInstance) -> tuple[str, str, int]:
    """Return (benchmark, task, shots), which identifies an instance's task."""
    return row.benchmark, row.task, row.shots


def task_scores(
    rows: Iterable[ScoredInstance], summary: Callable[[NDArray[np.float64]], Value] = np.mean
) -> list[TaskScore]:
    """Return the score of each task at each number of shots: the mean over its instances.

    Args:
        rows: Evaluated instances.
        summary: Returns a task's score from its instances' scores [n]; ``significance.Resampling`` returns resampled
            ones.
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
    """Merge the tasks of a benchmark that have the same parent, such as the 57 subjects of MMLU, by their mean."""
    return _joined(tasks, lambda task: (task.benchmark, task.family))


def join_benchmarks(tasks: Iterable[TaskScore]) -> list[TaskScore]:
    """Merge tasks of several benchmarks with the same name or parent, such as RACE in two collections."""
    return _joined(tasks, lambda task: task.family)


def _joined(tasks: Iterable[TaskScore], name: Callable[[TaskScore], Hashable]) -> list[TaskScore]:
    """Merge tasks of the same name, level, category and shots."""
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
    """Return OPT-IML's columns: the mean over the tasks of each category, at each level and number of shots.

    Args:
        tasks: Scores from ``task_scores``; subtypes and benchmarks are merged here.
        by: "category": columns are categories and MMLU, as in Tables 4, 7 and 8 of OPT-IML. "benchmark": columns are
            benchmarks with their held-out files, as in Table 5; a task of several benchmarks counts in each.
        zero_shot_only: Categories of which only 0-shot scores count.
    """
    counted = [task for task in tasks if counts(task, zero_shot_only)]
    joined = join_subtypes(counted)
    if by == "category":
        joined = join_benchmarks(joined)
    groups = grouped(joined, lambda task: (task.level, _column_name(task, by), task.shots))
    means = [
        Column(level, name, shots, mean_of([task.score for task in members]), len(members))
        for (level, name, shots), members in groups.items()
    ]
    return sorted(means, key=lambda column: (LEVELS.index(column.level), column.name, column.shots))


def _column_name(task: TaskScore, by: Literal["category", "benchmark"]) -> str:
    if by == "benchmark":
        return HELD_OUT_FILES.sub("", task.benchmark)
    return OWN_COLUMNS.get(task.task, task.category)


def counts(task: TaskScore, zero_shot_only: Collection[str] = ZERO_SHOT_ONLY) -> bool:
    """Return whether a task's score enters averages: few-shot scores of the given categories do not."""
    return task.shots == 0 or task.category not in zero_shot_only


def level_scores(columns: Iterable[Column]) -> dict[tuple[Level, int], Value]:
    """Return the mean over the columns of each level of generalization, by (level, number of shots)."""
    groups = grouped(columns, lambda column: (column.level, column.shots))
    return {key: mean_of([column.score for column in members]) for key, members in groups.items()}


def shot_averages(columns: Iterable[Column]) -> dict[int, Value]:
    """Return the mean over all columns of all levels, by shots: "Average" in OPT-IML's Table 7."""
    groups = grouped(columns, lambda column: column.shots)
    return {shots: mean_of([column.score for column in members]) for shots, members in groups.items()}


def selection_score(columns: Iterable[Column]) -> Value:
    """Return the score for selecting a model: the mean over all columns at all numbers of shots (OPT-IML: 0 and 5).

    Raises:
        ValueError: There is no column.
    """
    scores = [column.score for column in columns]
    if not scores:
        raise ValueError("a selection score needs at least one task that counts")
    return mean_of(scores)


class Cell(NamedTuple):
    """Key of one score of an evaluation: that of a task, a column, a level, a number of shots, or everything.

    A column is the mean over the tasks of a category or benchmark; a level is one of generalization.

    Args:
        kind: "task", "column" and "level" are scores of these. "average" is over all columns at one number of shots.
            "selection" is over all columns.
        level: Level of a task, column or level; None for other kinds.
        name: Name of a task or column.
        shots: Number of shots; None for the selection score.
        benchmark: Benchmark of a task.
        category: Category of a task.
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
    """Return every score of an evaluation with its count: the number of instances, tasks or columns in this mean.

    Args:
        rows: Evaluated instances.
        summary: Returns a task's score from its instances' scores [n].
        by: Whether columns are categories or benchmarks.
    """
    tasks = task_scores(rows, summary)
    all_columns = columns(tasks, by)
    scores: dict[Cell, tuple[Value, int]] = {}
    if all_columns:
        scores[Cell("selection")] = selection_score(all_columns), len(all_columns)
    for shots, score in sorted(shot_averages(all_columns).items()):
        scores[Cell("average", shots=shots)] = score, sum(column.shots == shots for column in all_columns)
    for (level, shots), score in level_scores(all_columns).items():
        of_level = sum((column.level, column.shots) == (level, shots) for column in all_columns)
        scores[Cell("level", level, shots=shots)] = score, of_level
    for column in all_columns:
        scores[Cell("column", column.level, column.name, column.shots)] = column.score, column.tasks
    for task in sorted(tasks, key=lambda task: (LEVELS.index(task.level), task.category, task.task, task.shots)):
        cell = Cell("task", task.level, task.task, task.shots, task.benchmark, task.category)
        scores[cell] = task.score, task.instances
    return scores


def selection_scores_of(scores: Scores, examples: Sequence[EvaluationExample]) -> Mapping[str, float]:
    """Return the averages that select a model, by the names under which they are logged; empty without scores.

    ``selection`` is the mean over all category columns; ``average_0_shot`` and the like are the means over the columns
    at one number of shots.
    """
    all_columns = columns(task_scores(scored_instances(scores, examples)))
    if not all_columns:
        return {}
    averages = {f"average_{shots}_shot": float(score) for shots, score in sorted(shot_averages(all_columns).items())}
    return {"selection": float(selection_score(all_columns)), **averages}


def log_selection(module: "L.LightningModule", stage: Stage, scores: Scores) -> None:
    """Log the averages over categories by which OPT-IML selects a model, under ``selection`` and ``average_N_shot``.

    A ModelCheckpoint can monitor ``validation/selection``. Nothing is logged with a datamodule of another project.
    """
    from ...datamodules.base import run_data  # Lightning, which a report does not need

    data = run_data(module.trainer)
    if data is not None:  # it knows the level and category of each example
        for name, score in selection_scores_of(scores, data.evaluation_examples(stage)).items():
            module.log(f"{stage}/{name}", score)
