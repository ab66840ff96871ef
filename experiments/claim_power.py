"""Numbers of seeds or tasks that a claim needs: the power of the test in judge_claims.py, given measured variances.

A difference of seed s and task t is a mean, plus a deviation of the task, one of the seed, and a rest::

    difference[s, t] = effect + task[t] + seed[s] + rest[s, t]

The three variances are those of a two-way analysis of variance. The rule's squared standard error has the expectation
(task + rest / S) / T + (seed + rest / T) / S, and its t statistic follows a noncentral t distribution with
Satterthwaite's degrees of freedom.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import nct
from scipy.stats import t as student_t

POWER = 0.8
MOST = 10_000
"""Largest number of seeds or tasks that is tried."""


class Spread(NamedTuple):
    """Variances of differences, in squared percentage points.

    Args:
        task: Of the tasks; with one seed, also the rest.
        seed: Of the seeds; None with one seed, whose spread is unknown.
        rest: Of single runs on single tasks.
    """

    task: float
    seed: float | None
    rest: float


def spread_of(differences_ST: NDArray[np.float64]) -> Spread:
    """Return the variances of the differences of S seeds and T tasks; negative estimates are set to 0."""
    seeds, tasks = differences_ST.shape
    by_task, by_seed = differences_ST.mean(axis=0), differences_ST.mean(axis=1)
    if seeds == 1 or tasks == 1:
        return Spread(float(by_task.var(ddof=1)) if tasks > 1 else 0.0, None, 0.0)
    residual = differences_ST - by_task - by_seed[:, None] + differences_ST.mean()
    rest = float(np.square(residual).sum()) / ((seeds - 1) * (tasks - 1))
    task = float(by_task.var(ddof=1)) - rest / seeds
    seed = float(by_seed.var(ddof=1)) - rest / tasks
    return Spread(max(task, 0.0), max(seed, 0.0), rest)


def power(effect: float, spread: Spread, *, seeds: int, tasks: int) -> float:
    """Return the probability that the interval of a difference is above 0, if the true difference is `effect`.

    Args:
        effect: In percentage points.
        spread: The variances.
        seeds: Number of seeds; at least 2 unless the spread of seeds is unknown.
        tasks: Number of tasks, at least 2.
    """
    seed = spread.seed or 0.0
    parts = [((spread.task + spread.rest / seeds) / tasks, tasks - 1)]
    if seeds > 1:
        parts.append(((seed + spread.rest / tasks) / seeds, seeds - 1))
    expected = sum(part for part, _ in parts)
    if expected == 0:
        return float(effect > 0)
    freedom = expected**2 / sum(part**2 / count for part, count in parts)
    deviation = math.sqrt(spread.task / tasks + seed / seeds + spread.rest / (seeds * tasks))
    # The rule counts the rest twice, so that its error is larger than the deviation of the mean.
    limit = float(student_t.ppf(0.975, freedom)) * math.sqrt(expected) / deviation
    return float(nct.sf(limit, freedom, effect / deviation))


def fewest(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 2 on for which `enough` is true, given that it stays true; None above MOST.

    >>> fewest(lambda number: number >= 37), fewest(lambda number: False)
    (37, None)
    """
    if not enough(MOST):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def seeds_needed(effect: float, spread: Spread, tasks: int) -> int | None:
    """Return the fewest seeds on `tasks` tasks with a power of POWER; None above MOST, or if no variance is known."""
    if spread.seed is None:
        return None
    return fewest(lambda seeds: power(effect, spread, seeds=seeds, tasks=tasks) >= POWER)


def tasks_needed(effect: float, spread: Spread, seeds: int) -> int | None:
    """Return the fewest tasks with `seeds` seeds and a power of POWER; None if MOST are too few."""
    return fewest(lambda tasks: power(effect, spread, seeds=seeds, tasks=tasks) >= POWER)
