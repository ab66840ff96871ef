"""Draws of examples from a mixture: an endless, deterministic sequence, divided into windows.

A window is about 65,536 successive draws, which are shuffled and packed together. It is a pure function of (seed, index
of the window, sizes, rates), so that any position costs the same, on any number of ranks. Memory grows with the number
of tasks, not of examples.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .permutation import Words, mixed, permuted

WINDOW = 65_536
"""Draws of a window: enough for best-fit rows to be 99.9% full, few enough to plan in 0.3 s."""


@dataclass(frozen=True)
class Mixture:
    """An endless, deterministic sequence of training examples, drawn from tasks at given rates.

    It is computed in windows of about `window` successive draws. After every window, the number of draws of a task
    equals its rate times all draws, to within one. Within a task, every example is drawn once before any is repeated,
    and each pass has another order. The order of a task depends on the seed, its name and its size only: adding a task
    does not change the orders of the others.

    Args:
        names: Names of the tasks.
        sizes: Number of examples of each task.
        rates: Sampling rate of each task; their sum is 1.
        seed: Seed of the orders.
        window: Average number of draws in a window; it may be fractional.

    Raises:
        ValueError: Lengths of the sequences differ, rates do not sum to 1, or `window` is below 1.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    rates: Sequence[float]
    seed: int = 0
    window: float = WINDOW

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.sizes) == len(self.rates):
            raise ValueError("names, sizes and rates must have one entry per task")
        if not np.isclose(sum(self.rates), 1.0, atol=1e-9):
            raise ValueError(f"rates must sum to 1, got {sum(self.rates)}")
        if self.window < 1:
            raise ValueError(f"window must be a positive number of draws, got {self.window}")

    def draws(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (task indices, example indices) of the draws in a window, int64 [draws] each, shuffled.

        After a total of n draws, a task has been drawn floor(rate * n + phase) times. The phases, in [0, 1), differ
        between tasks, so that rare tasks are not all drawn in the same window.

        Args:
            window: Index of the window, from 0.
        """
        first, last = self._drawn_before(window), self._drawn_before(window + 1)
        counts = last - first
        tasks = np.repeat(np.arange(len(self.names)), counts)
        # 0 1 2 0 1 ...: the number of each draw among its task's in this window
        within = np.arange(len(tasks)) - np.repeat(np.cumsum(counts) - counts, counts)
        examples = self.examples(tasks, first[tasks] + within)
        order = _generator(self.seed, "window", window).permutation(len(tasks))
        return tasks[order], examples[order]

    def examples(self, tasks: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64 [n], the index of the example that each draw of a task takes; each pass has another order.

        >>> mixture = Mixture(["a"], [3], [1.0])
        >>> drawn = mixture.examples(np.zeros(6, dtype=np.int64), np.arange(6))
        >>> sorted(drawn[:3].tolist()), sorted(drawn[3:].tolist())
        ([0, 1, 2], [0, 1, 2])

        Args:
            tasks: int64 [n], index of the task of each draw.
            numbers: int64 [n], how often the task was drawn before.
        """
        sizes = np.asarray(self.sizes, dtype=np.int64)[tasks]
        passes, places = np.divmod(numbers, sizes)
        return permuted(places, sizes, mixed(self._keys[tasks] + passes.astype(np.uint64)))

    def _drawn_before(self, window: int) -> NDArray[np.int64]:
        return np.floor(np.asarray(self.rates) * self.window * window + self._phases).astype(np.int64)

    @cached_property
    def _phases(self) -> NDArray[np.float64]:
        return np.array([_word(self.seed, "phase", name) >> 16 for name in self.names]) / 2**48

    @cached_property
    def _keys(self) -> Words:
        return np.array([_word(self.seed, "order", name) for name in self.names], dtype=np.uint64)


def _generator(*key: int | str) -> np.random.Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _word(*key: int | str) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")
