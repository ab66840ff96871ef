"""What the files of toy families tell: somebody has a number of animals of a color; and how files are written."""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from .tasks import POOLS


class Fact(NamedTuple):
    """What a story tells: somebody has a number of animals of a color."""

    name: str
    animal: str
    color: str
    number: int

    @property
    def sentence(self) -> str:
        return f"{self.name} has {self.number} {self.color} {self.animal}s."


def facts(rng: Random, count: int) -> Iterator[Fact]:
    for _ in range(count):
        name, animal, color = (rng.choice(POOLS[kind]) for kind in ("name", "animal", "color"))
        yield Fact(name, animal, color, rng.randint(2, 99))


def choices(rng: Random, fact: Fact, count: int = 4) -> tuple[list[str], int]:
    """Colors to choose from, the fact's own among them, and its place."""
    listed = [fact.color, *rng.sample([color for color in POOLS["color"] if color != fact.color], count - 1)]
    rng.shuffle(listed)
    return listed, listed.index(fact.color)


def entailment(rng: Random, count: int) -> Iterator[dict[str, Any]]:
    for fact in facts(rng, count):
        label = rng.randrange(2)
        animal = fact.animal if label == 0 else rng.choice([a for a in POOLS["animal"] if a != fact.animal])
        yield {"premise": fact.sentence, "hypothesis": f"{fact.name} has {animal}s.", "label": label}
