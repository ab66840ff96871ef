"""Which example is drawn when: mixing rates, and an endless, deterministic sequence of draws cut into windows.

Nothing here is random in the sense of a generator that must be advanced. Window w of the sequence is a pure
function of (seed, w, sizes, rates): any position is reached at once, on any number of ranks.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

WINDOW = 65_536
"""Draws that are packed together: enough for best-fit rows to be 99.9% full, few enough to plan in 0.3 s."""


def mixing_rates(sizes: Mapping[str, int], *, cap: int | None = None) -> dict[str, float]:
    """Sampling rate of each task: proportional to its examples, counting at most `cap` of them.

    The cap keeps one huge task from filling every batch. OPT-IML calls it EPS (arXiv 2212.12017, section 3.2).

    >>> mixing_rates({"boolq": 100, "squad": 900}, cap=300)
    {'boolq': 0.25, 'squad': 0.75}
    """
    if cap is not None and cap <= 0:
        raise ValueError(f"cap must be a positive number of examples, got {cap}")
    if not sizes:
        raise ValueError("a mixture needs at least one task")
    empty = sorted(task for task, size in sizes.items() if size <= 0)
    if empty:
        raise ValueError(f"tasks with no examples cannot be sampled: {empty}")
    capped = {task: min(size, cap) if cap else size for task, size in sizes.items()}
    total = sum(capped.values())
    return {task: size / total for task, size in capped.items()}


def _generator(*key: int | str) -> np.random.Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


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
    _orders: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict, repr=False, compare=False)

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
        tasks = np.repeat(np.arange(len(self.names)), last - first)
        examples = np.concatenate(
            [self._examples(int(task), int(first[task]), int(last[task])) for task in np.flatnonzero(last > first)]
            or [np.empty(0, dtype=np.int64)]
        )
        order = _generator(self.seed, "window", window).permutation(len(tasks))
        return tasks[order], examples[order]

    def _drawn_before(self, window: int) -> NDArray[np.int64]:
        phases = np.array([_phase(self.seed, name) for name in self.names])
        return np.floor(np.asarray(self.rates) * self.window * window + phases).astype(np.int64)

    def _examples(self, task: int, first: int, last: int) -> NDArray[np.int64]:
        passes, places = np.divmod(np.arange(first, last), self.sizes[task])
        return np.concatenate(
            [self._order(task, int(number))[places[passes == number]] for number in np.unique(passes)]
        )

    def _order(self, task: int, number: int) -> NDArray[np.int64]:
        if self._orders.get(task, (-1,))[0] != number:
            order = _generator(self.seed, "order", self.names[task], number).permutation(self.sizes[task])
            self._orders[task] = (number, order)
        return self._orders[task][1]


def _phase(seed: int, name: str) -> float:
    digest = hashlib.sha256(repr((seed, "phase", name)).encode()).digest()
    return int.from_bytes(digest[:6], "little") / 2**48
