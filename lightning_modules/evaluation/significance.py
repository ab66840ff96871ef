"""Confidence intervals of scores and of differences: bootstrap over instances, t-interval over repeated runs.

Every score of ``aggregation.py`` is a mean of means, so the bootstrap only resamples the instances of each task:
``columns(task_scores(rows, Resampling()))`` has resampled scores, and ``interval`` turns them into an estimate. The
difference of two systems is the score of their instances' differences (paired bootstrap).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .aggregation import ScoredInstance, grouped, task_key


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean score over `count` instances, with its 95% confidence interval [low, high].

    If ``runs`` has the means of repeated runs, the interval covers other runs. If it is empty, the interval covers
    other instances (bootstrap).
    """

    mean: float
    low: float
    high: float
    count: int
    runs: tuple[float, ...] = ()


def bootstrap(values: NDArray[np.float64], *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the mean of per-instance scores with a 95% percentile interval over resampled instances.

    The interval covers other instances of the same tasks, not other tasks or training seeds.

    Args:
        values: float64 [n], score of each instance.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        ValueError: There is no score.
    """
    if not len(values):
        raise ValueError("an estimate needs at least one score")
    generator = np.random.default_rng(seed)
    at_once = max(1, 2**18 // len(values))  # few small arrays for a task, no huge one for a benchmark
    means = np.empty(resamples)
    for start in range(0, resamples, at_once):
        places = generator.integers(0, len(values), (len(means[start : start + at_once]), len(values)))
        means[start : start + at_once] = values[places].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


class Resampling:
    """Turns the scores [n] of a task into [1 + R]: their mean, then the means of R resamples of its instances.

    Args:
        resamples: R.
        seed: Seed of the resamples. The same calls in the same order draw the same ones.
    """

    def __init__(self, resamples: int = 1000, seed: int = 0) -> None:
        self.resamples, self.generator = resamples, np.random.default_rng(seed)

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        places = self.generator.integers(0, len(scores), (self.resamples, len(scores)))
        return np.concatenate([[scores.mean()], scores[places].mean(axis=1)])


class Difference(NamedTuple):
    """The score of one system minus that of another, on shared instances.

    Args:
        mean: Difference of the scores, in [-1, 1].
        low: Lower end of the 95% interval over resampled instances.
        high: Upper end of the interval.
        p: Two-sided p-value: twice the share of resamples whose difference is 0 or has the opposite sign.
    """

    mean: float
    low: float
    high: float
    p: float


def interval(resampled: NDArray[np.float64], count: int) -> Estimate:
    """Return a score with its 95% percentile interval, over `count` instances.

    >>> interval(np.array([0.5, 0.4, 0.5, 0.6]), count=20)
    Estimate(mean=0.5, low=0.405, high=0.595, count=20, runs=())

    Args:
        resampled: [1 + R], the score and then R resampled ones, as ``Resampling`` returns them.
        count: Number of instances behind the score.
    """
    low, high = np.percentile(resampled[1:], [2.5, 97.5])
    return Estimate(float(resampled[0]), float(low), float(high), count)


def difference(resampled: NDArray[np.float64]) -> Difference:
    """Return the difference of two systems' scores, with its interval and p-value.

    Args:
        resampled: [1 + R], the difference and then its values in R resamples. The p-value is at least 2 / (R + 1).
    """
    estimate = interval(resampled, 0)
    draws = resampled[1:]
    turned = min((draws <= 0).sum(), (draws >= 0).sum())
    return Difference(estimate.mean, estimate.low, estimate.high, float(min(1.0, 2 * (turned + 1) / (len(draws) + 1))))


def average_runs(runs: Sequence[Sequence[ScoredInstance]]) -> list[ScoredInstance]:
    """Return all instances of repeated runs of one system, each with its mean scores over the runs that evaluated it.

    Call it for each of two systems before ``paired_differences``. Runs with different seeds may evaluate different
    instances. If both systems ran with the same seeds, they have the same instances after averaging.

    Args:
        runs: Scored instances of each run; an instance is recognized by benchmark, task, number of shots and id.
    """
    by_key: dict[tuple[str, str, int, str], list[ScoredInstance]] = {}
    for run in runs:
        for row in run:
            by_key.setdefault(_key(row), []).append(row)
    return [_weighted(rows, [1 / len(rows)] * len(rows)) for rows in by_key.values()]


def paired_differences(base: Sequence[ScoredInstance], other: Sequence[ScoredInstance]) -> list[ScoredInstance]:
    """Return the instances that two systems share, with the scores of `other` minus those of `base`.

    They are in the order of `other`; their level of generalization and category are those in `base`.

    Args:
        base: Scored instances of one system, each instance once (``require_single``).
        other: Scored instances of the second system, likewise.
    """
    of_base = {_key(row): row for row in base}
    return [_weighted([of_base[_key(row)], row], [-1.0, 1.0]) for row in other if _key(row) in of_base]


def _weighted(rows: Sequence[ScoredInstance], weights: Sequence[float]) -> ScoredInstance:
    """Return the first row with the weighted sums of all rows' scores."""

    def total(scores: Iterable[float]) -> float:
        return sum(weight * score for weight, score in zip(weights, scores, strict=True))

    return rows[0]._replace(
        score=total(row.score for row in rows),
        rouge_l=total(row.rouge_l for row in rows),
        exact_match=total(row.exact_match for row in rows),
    )


def _key(row: ScoredInstance) -> tuple[str, str, int, str]:
    return (*task_key(row), row.id)


def require_single(rows: Sequence[ScoredInstance], where: str) -> None:
    """Reject predictions with two lines for one instance, since two systems could not be compared on it.

    Args:
        rows: Scored instances of one system.
        where: Name of the system's predictions, for the message.

    Raises:
        ValueError: Names the first such instance.
    """
    for (benchmark, task, shots, id_), members in grouped(rows, _key).items():
        if len(members) > 1:
            raise ValueError(
                f"{where} holds {len(members)} predictions for instance {id_!r} of {benchmark} {task} at {shots} "
                "shots: one is expected; evaluate again, or keep the lines of one evaluation"
            )


def seed_interval(means: Sequence[float], count: int) -> Estimate:
    """Return the mean over repeated runs with its 95% t-interval, which covers other training seeds.

    >>> seed_interval([0.5, 0.6], count=100).high > 1
    True

    Args:
        means: Mean score of each run.
        count: Number of instances behind each mean.

    Raises:
        ValueError: There are fewer than two runs.
    """
    runs = len(means)
    if runs < 2:
        raise ValueError(f"an interval over runs needs at least two runs, got {runs}")
    from scipy.stats import t as student_t  # takes seconds to import

    mean, error = float(np.mean(means)), float(np.std(means, ddof=1)) / math.sqrt(runs)
    half_width = float(student_t.ppf(0.975, runs - 1)) * error
    return Estimate(mean, mean - half_width, mean + half_width, count, tuple(map(float, means)))
