"""Scores of answers, and their means with intervals."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scores(NamedTuple):
    """Scores of all examples, sorted by number, the same on every process.

    They are arrays, since torchmetrics makes scalars of tensors that hold one element. Those with a default may be left
    out where nobody asks for them.

    Args:
        number: int64 [n], ``EvaluationExample.number``.
        rouge_l: float64 [n], in [0, 1].
        exact_match: float64 [n], 0 or 1.
        token_f1: float64 [n], in [0, 1].
        accuracy: float64 [n], 0 or 1; NaN for an example without options.
        degenerate: float64 [n], 1 where an answer lost its form, see ``answers.degeneration``.
        tied: float64 [n], 1 where the chosen option was not the only one with its score.
    """

    number: NDArray[np.int64]
    rouge_l: NDArray[np.float64]
    exact_match: NDArray[np.float64]
    token_f1: NDArray[np.float64] = np.empty(0)
    accuracy: NDArray[np.float64] = np.empty(0)
    degenerate: NDArray[np.float64] = np.empty(0)
    tied: NDArray[np.float64] = np.empty(0)

    def column(self, name: str) -> NDArray[np.float64]:
        """One kind of score [n], NaN where nobody asked for it."""
        values = getattr(self, name)
        return values if len(values) else np.full(len(self.number), np.nan)

    def means(self) -> dict[str, float]:
        """The mean of every kind of score over the examples that have it; ties are counted."""
        kinds = {name: getattr(self, name) for name in ("rouge_l", "exact_match", "token_f1", "accuracy", "degenerate")}
        found = {name: values[~np.isnan(values)] for name, values in kinds.items()}
        means = {name: float(values.mean()) for name, values in found.items() if len(values)}
        return means | ({"ties": float(self.tied.sum())} if "accuracy" in means else {})


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the ends of its 95% interval, and over how many instances it was taken.

    Of repeated runs, ``runs`` holds the mean of each, and the interval is over them; else it is a bootstrap over
    instances.
    """

    mean: float
    low: float
    high: float
    count: int
    runs: tuple[float, ...] = ()


def bootstrap(values: NDArray[np.float64], *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Mean of per-instance scores with a 95% percentile interval over resampled instances.

    The interval says how much the mean would vary with other instances of the same tasks. It says nothing of other
    tasks or of another training seed.
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


def bootstrap_by(values: NDArray[np.float64], groups: Sequence[Hashable]) -> dict[Hashable, Estimate]:
    """An estimate for every group, in the order of their first instances; instances of a group are pooled."""
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    return {group: bootstrap(values[members]) for group, members in places.items()}
