"""Examples of a task that are needed more than once: kept while they are few, read again where they are many."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import Example


@dataclass(frozen=True)
class Chosen:
    """Some of a task's examples, by place; they can be read more than once."""

    examples: Iterable[Example]
    places: Collection[int]

    def __iter__(self) -> Iterator[Example]:
        return (example for place, example in enumerate(self.examples) if place in self.places)

    def some(self, number: int, key: tuple[int, str]) -> list[Example]:
        """At most `number` of them, a fixed random choice."""
        places = sorted(self.places)
        if len(places) > number:
            digest = hashlib.sha256(repr(("pool", *key)).encode()).digest()
            generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
            places = generator.choice(places, number, replace=False).tolist()
        return list(Chosen(self.examples, frozenset(places)))


class Reread:
    """Examples that are read again each time, or kept where they are few.

    Args:
        read: Reads them, always the same.
        budget: Most characters to keep.
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
                left -= len(example.input) + sum(map(len, example.targets)) + 1000  # of the objects themselves
                kept = kept if left >= 0 else None
            yield example
        self._kept = kept

    def at(self, places: Sequence[int]) -> Chosen:
        """Those at some places, in the order they are read in."""
        return Chosen(self, frozenset(places))
