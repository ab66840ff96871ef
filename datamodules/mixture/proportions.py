"""Sampling rates of tasks: from their sizes within a benchmark, and from the benchmarks' proportions.

A proportion is a share of *examples* in OPT-IML (arXiv 2212.12017, section 3.2). The share of its pre-training data is
one of *updates*, that is of rows; since such a document fills a row, it is a far smaller share of examples. An extra
stream, i.e. a benchmark beside the proportions, therefore states the unit of its share, and which benchmark's share it
reduces.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..messages import nearest, some
from .task_subset import TaskSubset

Unit = Literal["examples", "rows", "tokens"]
"""Unit of an extra stream's share: draws, columns of rows, or tokens."""


class TaskSize(NamedTuple):
    """Size of a task, from which its rate is computed.

    Args:
        name: Name of the task.
        benchmark: Benchmark of the task, which proportions refer to.
        category: Category of the task.
        examples: Number of training examples.
        tokens: Mean number of tokens of an example, after truncation to a row.
        rows: Mean share of a row's columns that an example takes.
        licence: Licence of the instances; empty if it is unknown.
    """

    name: str
    benchmark: str
    category: str
    examples: int
    tokens: float = 1.0
    rows: float = 1.0
    licence: str = ""


@dataclass(frozen=True)
class ExtraStream:
    """Share of a benchmark that is added at the expense of others, e.g. pre-training text, reasoning or dialogue.

    Args:
        share: Share of the whole mixture, at least 0 and below 1, e.g. 0.05.
        unit: Unit of the share: ``examples``, ``rows`` (columns of the packed rows) or ``tokens``.
        paid_by: Name of the benchmark whose share is reduced by this one; null reduces the shares of all benchmarks
            with proportions by the same factor.
    """

    share: float
    unit: Unit = "examples"
    paid_by: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"the share of an extra stream must be at least 0 and below 1, got {self.share}")
        if self.unit not in ("examples", "rows", "tokens"):
            raise ValueError(f"a share counts examples, rows or tokens, got {self.unit!r}")


@dataclass(frozen=True)
class MixtureRules:
    """Rules that compute the sampling rates of tasks from their sizes.

    Args:
        cap: Maximum number of examples of a task that count towards its rate (EPS in OPT-IML); null for all.
        proportions: Share of the draws of each benchmark, without the extra streams. Benchmarks that are not named
            divide the remaining share in proportion to their capped sizes. Null divides all by capped sizes.
        extra: Benchmarks that are added at the expense of those with proportions, with their shares, e.g. pre-training
            text with a share of the rows.
        absent: If a benchmark in `proportions` or `extra` has no training tasks: ``rejected`` is an error; ``shared``
            divides its share between the other benchmarks, in the ratio of their shares.
        temperature: Rates within a benchmark are proportional to size ** (1 / temperature): 1 for proportional to the
            sizes, more for more equal rates.
        uniform_categories: Whether all categories of a benchmark have the same rate, whatever their sizes.
        subset: Trains only some of the training tasks; null for all.
    """

    cap: int | None = None
    proportions: Mapping[str, float] | None = None
    extra: Mapping[str, ExtraStream] | None = None
    temperature: float = 1.0
    uniform_categories: bool = False
    absent: Literal["rejected", "shared"] = "rejected"
    subset: TaskSubset | None = None

    def __post_init__(self) -> None:
        if self.absent not in ("rejected", "shared"):
            raise ValueError(f"absent benchmarks are 'rejected' or 'shared', got {self.absent!r}")
        if self.cap is not None and self.cap <= 0:
            raise ValueError(f"cap must be a positive number of examples, got {self.cap}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        shares = self.proportions or {}
        if wrong := [name for name, share in shares.items() if not 0 <= share < math.inf]:
            raise ValueError(f"proportions must be finite and not negative: {some(wrong)}")
        if both := sorted(set(shares) & set(self.extra or {})):
            raise ValueError(f"{some(both)} are in proportions and in extra: name each once")


def absent_benchmarks(rules: MixtureRules, benchmarks: Collection[str]) -> list[str]:
    """Return the benchmarks that the rules give a share, but that have no training tasks.

    Args:
        rules: Rules of the mixture, with shares in ``proportions`` and ``extra``.
        benchmarks: Names of the benchmarks that have training tasks.
    """
    return [name for name in {**(rules.proportions or {}), **(rules.extra or {})} if name not in benchmarks]


def task_rates(tasks: Sequence[TaskSize], rules: MixtureRules) -> NDArray[np.float64]:
    """Return the sampling rate of each task, float64 [tasks]; their sum is 1.

    A cap keeps one huge task from filling every batch. OPT-IML calls it EPS (arXiv 2212.12017, section 3.2). Here the
    second task counts with 300 of its 900 examples:

    >>> tasks = [TaskSize("boolq", "flan", "QA", 100), TaskSize("squad", "flan", "QA", 900)]
    >>> task_rates(tasks, MixtureRules(cap=300)).tolist()
    [0.25, 0.75]

    Args:
        tasks: The training tasks and their sizes.
        rules: Cap, proportions of benchmarks, and the other rules.

    Raises:
        ValueError: There is no task, or a task has no examples. Proportions do not sum to 1, name a benchmark without
            tasks, or leave no share for a benchmark that they do not name. The extra streams reduce a share below 0.
    """
    if not tasks:
        raise ValueError("a mixture needs at least one task")
    if empty := sorted(task.name for task in tasks if task.examples <= 0):
        raise ValueError(f"tasks with no examples cannot be sampled: {empty}")
    benchmarks = list(dict.fromkeys(task.benchmark for task in tasks))
    if rules.absent == "shared":
        rules = _without(rules, absent_benchmarks(rules, benchmarks), benchmarks)
    members = {name: np.array([i for i, t in enumerate(tasks) if t.benchmark == name]) for name in benchmarks}
    within = {name: _within([tasks[i] for i in members[name]], rules) for name in benchmarks}
    shares = _benchmark_shares(tasks, members, within, rules)
    rates = np.zeros(len(tasks))
    for name in benchmarks:
        rates[members[name]] = shares[name] * within[name]
    return rates


def _without(rules: MixtureRules, absent: Collection[str], benchmarks: Collection[str]) -> MixtureRules:
    """Return the rules without the absent benchmarks; the ratios of the other shares stay the same."""
    named, extra = dict(rules.proportions or {}), dict(rules.extra or {})
    present = {name: share for name, share in named.items() if name not in absent}
    if len(present) < len(named):
        left = _sums_to_one(named, [name for name in benchmarks if name not in named and name not in extra])
        total = sum(present.values()) + left
        present = {name: share / total for name, share in present.items()} if total else {}
    streams = {
        name: replace(stream, paid_by=None) if stream.paid_by in absent else stream  # all pay for an absent payer
        for name, stream in extra.items()
        if name not in absent
    }
    return replace(rules, proportions=present, extra=streams)


def _within(tasks: Sequence[TaskSize], rules: MixtureRules) -> NDArray[np.float64]:
    """Return the rates of the tasks of one benchmark, with sum 1."""
    weights = np.array([_capped(task, rules) for task in tasks], dtype=np.float64) ** (1 / rules.temperature)
    if rules.uniform_categories:
        _, category = np.unique([task.category for task in tasks], return_inverse=True)
        weights /= np.bincount(category, weights)[category]
    return weights / weights.sum()


def _capped(task: TaskSize, rules: MixtureRules) -> int:
    return min(task.examples, rules.cap) if rules.cap else task.examples


def _benchmark_shares(
    tasks: Sequence[TaskSize],
    members: Mapping[str, NDArray[np.int64]],
    within: Mapping[str, NDArray[np.float64]],
    rules: MixtureRules,
) -> dict[str, float]:
    """Return each benchmark's share of the draws; `members` are indices of its tasks, `within` their rates in it."""
    extra = dict(rules.extra or {})
    _known(extra, members, "extra")
    plain = [name for name in members if name not in extra]
    if not plain:
        raise ValueError(
            "every benchmark is an extra stream: leave at least one out of mixture.extra, whose share they reduce"
        )
    counted = {name: float(sum(_capped(tasks[i], rules) for i in members[name])) for name in plain}
    shares = _proportions(counted, rules.proportions or {})
    means = {
        name: {
            "examples": 1.0,
            "rows": float(np.dot(within[name], [tasks[i].rows for i in members[name]])),
            "tokens": float(np.dot(within[name], [tasks[i].tokens for i in members[name]])),
        }
        for name in members
    }
    return _with_extra(shares, extra, means)


def _proportions(counted: Mapping[str, float], named: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of benchmarks without extra streams, with sum 1; `counted` are their capped sizes."""
    _known(named, counted, "proportions")
    unnamed = [name for name in counted if name not in named]
    left = _sums_to_one(named, unnamed)
    if unnamed and not left:
        raise ValueError(
            f"proportions sum to 1 and leave nothing for {some(unnamed)}: name each with its share, 0 to leave it out, "
            "or as a stream in mixture.extra, whose share all others give up in proportion"
        )
    total = sum(counted[name] for name in unnamed)
    return dict(named) | {name: left * counted[name] / total for name in unnamed}


def _sums_to_one(named: Mapping[str, float], unnamed: Collection[str]) -> float:
    """Return the share that proportions leave for the benchmarks without a proportion."""
    left = 1.0 - sum(named.values())
    if abs(left) < 1e-9:
        return 0.0
    if left < 0 or not unnamed:
        raise ValueError(
            f"proportions must sum to 1, got {sum(named.values()):g} for {', '.join(named)}"
            + ("" if unnamed else "; no benchmark is left for the rest")
            + ("; a collection in mixture.extra takes its share from all others in proportion" if left < 0 else "")
        )
    return left


def _with_extra(
    shares: Mapping[str, float], extra: Mapping[str, ExtraStream], means: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Return each benchmark's share of the draws, extra streams included.

    Let e_j be the unknown shares of draws of the extra streams. Benchmark i keeps b_i (1 - sum of the e_j paid by all)
    - (sum of the e_j paid by i). In stream j's unit, e_j times its mean size is `share` of the mixture's total. These
    equations are linear in the e_j.
    """
    names = list(extra)
    for name, stream in extra.items():
        if stream.paid_by is not None and stream.paid_by not in shares:
            raise ValueError(f"{name!r} is paid by {stream.paid_by!r}; {nearest(stream.paid_by, shares)}")
    matrix, known = np.zeros((len(names), len(names))), np.zeros(len(names))
    for row, name in enumerate(names):
        unit, share = extra[name].unit, extra[name].share
        without = sum(part * means[benchmark][unit] for benchmark, part in shares.items())
        for column, other in enumerate(names):
            payer = extra[other].paid_by
            given_up = without if payer is None else means[payer][unit]
            matrix[row, column] = -share * (means[other][unit] - given_up)
        matrix[row, row] += means[name][unit]
        known[row] = share * without
    solved = dict(zip(names, np.linalg.solve(matrix, known).tolist(), strict=True)) if names else {}
    by_all = sum(part for name, part in solved.items() if extra[name].paid_by is None)
    reduced = {name: part * (1 - by_all) for name, part in shares.items()}
    for name, part in solved.items():
        payer = extra[name].paid_by
        if payer is not None:
            reduced[payer] -= part
    if broke := [name for name, part in reduced.items() if part < -1e-12]:
        raise ValueError(f"{some(broke)} cannot pay for the extra streams: its share would be negative")
    return {name: max(part, 0.0) for name, part in reduced.items()} | solved


def _known(named: Mapping[str, object], known: Mapping[str, object], where: str) -> None:
    """Reject benchmarks that have no training tasks."""
    if unknown := [name for name in named if name not in known]:
        raise ValueError(
            f"{where} names {some([f'{name} ({nearest(name, known)})' for name in unknown])}, which has no training "
            f"tasks here; the benchmarks are {', '.join(known)}"
        )
