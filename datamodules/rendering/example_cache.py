"""Cache of a task's examples: kept in memory if they are few, and read from the files again otherwise."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import Example


@dataclass(frozen=True)
class ExampleSubset:
    """Iterable of those examples of a task that have certain indices; it can be iterated more than once.

    Args:
        examples: All examples of the task.
        places: Indices into `examples`.
    """

    examples: Iterable[Example]
    places: Collection[int]

    def __iter__(self) -> Iterator[Example]:
        return (example for place, example in enumerate(self.examples) if place in self.places)

    def sample(self, number: int, key: tuple[int, str]) -> list[Example]:
        """Draw at most `number` of the examples at random, and return them in file order.

        Args:
            number: Maximum number of examples.
            key: (seed, name of the task), which decides the draw.
        """
        places = sorted(self.places)
        if len(places) > number:
            digest = hashlib.sha256(repr(("pool", *key)).encode()).digest()
            generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
            places = generator.choice(places, number, replace=False).tolist()
        return list(ExampleSubset(self.examples, frozenset(places)))


class ExampleCache:
    """A task's examples, kept in memory after the first complete pass if they fit into a budget.

    Args:
        read: Function that reads the examples; it must return the same ones in every call.
        budget: Maximum number of characters to keep in memory.
    """

    def __init__(self, read: Callable[[], Iterable[Example]], budget: int = 2**26) -> None:
        self.read, self.budget = read, budget
        self._kept: list[Example] | None = None

    def __iter__(self) -> Iterator[Example]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Example] | None = []
        left = self.budget
        for example in self.read():
            if kept is not None:
                kept.append(example)
                left -= len(example.input) + sum(map(len, example.targets)) + 1000  # 1000 for the Python objects
                kept = kept if left >= 0 else None
            yield example
        self._kept = kept

    def subset(self, places: Sequence[int]) -> ExampleSubset:
        """Return the examples at these indices, in the order of the file."""
        return ExampleSubset(self, frozenset(places))
