"""Which example is drawn when: an endless, deterministic sequence of draws cut into windows.

Nothing here is random in the sense of a generator that must be advanced. Window w of the sequence is a pure
function of (seed, w, sizes, rates): any position is reached at once, on any number of ranks. Nothing is stored per
example either: memory grows with the number of tasks, not with theirs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .permutation import Words, mixed, permuted

WINDOW = 65_536
"""Draws that are packed together: enough for best-fit rows to be 99.9% full, few enough to plan in 0.3 s."""


@dataclass(frozen=True)
class Mixture:
    """An endless sequence of draws from tasks, in windows of about `window` draws.

    Over every prefix that ends with a window, a task has been drawn as often as its rate says, to within one.
    Within a task every example is drawn once before any is drawn again, in an order that is new each time.
    A task's draws depend on its own name, size and rate alone: adding a task leaves the orders of others as
    they were.

    Args:
        names: Tasks.
        sizes: Examples of each.
        rates: Sampling rate of each, summing to 1.
        seed: Another seed is another sequence.
        window: Draws that are mixed and packed together, on average; it need not be a whole number.
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
        """Task and example index of every draw in a window, in mixed order.

        Example j of a task's own sequence is drawn when the running total rate * draws passes j. Each task's
        total starts at a fraction of its own, so that rare tasks do not all fall due in the same window.
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
        """The example that each task's own sequence has at a number: a new order of all of them in every pass."""
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
