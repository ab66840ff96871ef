"""Numbers of seeds or tasks that a claim needs: the power of the test in judge_claims.py, given measured variances.

A difference of seed s and task t is a mean, plus a deviation of the task, one of the seed, and a rest::

    difference[s, t] = effect + task[t] + seed[s] + rest[s, t]

The three variances are those of a two-way analysis of variance. The rule's squared standard error has the expectation
(task + rest / S) / T + (seed + rest / T) / S, and its t statistic follows a noncentral t distribution with
Satterthwaite's degrees of freedom.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import nct
from scipy.stats import t as student_t

POWER = 0.8
HALF_A_POINT = 0.5
"""A difference that instruction optimization is to show, in percentage points of ROUGE-L."""
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


def seeds_for_these_tasks(effect: float, spread: Spread, tasks: int) -> int | None:
    """Return the fewest seeds with a power of POWER if the interval covers other seeds alone, not other tasks.

    The paper's intervals are of this kind. None above MOST, or if the spread of seeds is unknown.
    """
    if spread.seed is None:
        return None
    of_means = Spread(task=spread.seed + spread.rest / tasks, seed=None, rest=0.0)
    return fewest(lambda seeds: power(effect, of_means, seeds=1, tasks=seeds) >= POWER)


def seeds_with_tasks(effect: float, spread: Spread, tasks_a_seed: int) -> int | None:
    """Return the fewest seeds with a power of POWER on `tasks_a_seed` times as many tasks, covering others of both."""
    if spread.seed is None:
        return None
    return fewest(lambda seeds: power(effect, spread, seeds=seeds, tasks=tasks_a_seed * seeds) >= POWER)


def smallest_difference(spread: Spread, *, seeds: int, tasks: int) -> float:
    """Return the true difference that is shown with a power of POWER, in percentage points.

    >>> round(smallest_difference(Spread(task=1.0, seed=None, rest=0.0), seeds=1, tasks=34), 3)
    0.495
    """
    low, high = 0.0, 1.0
    while power(high, spread, seeds=seeds, tasks=tasks) < POWER:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        shows = power(middle, spread, seeds=seeds, tasks=tasks) >= POWER
        low, high = (low, middle) if shows else (middle, high)
    return high


def seeds_of_published(effect: float, half_widths: Sequence[float], seeds: int) -> int | None:
    """Return the fewest seeds of each system that show a difference, given published intervals of both over seeds.

    The test is that of two independent samples, since the runs of a paper are not paired.

    Args:
        effect: The difference, in percentage points.
        half_widths: Half widths of the 95% t-intervals of both systems.
        seeds: Seeds of these intervals.
    """
    scale = math.sqrt(seeds) / float(student_t.ppf(0.975, seeds - 1))
    variance = sum((half * scale) ** 2 for half in half_widths)

    def enough(count: int) -> bool:
        freedom = 2 * count - 2
        return float(nct.sf(student_t.ppf(0.975, freedom), freedom, effect / math.sqrt(variance / count))) >= POWER

    return fewest(enough)
