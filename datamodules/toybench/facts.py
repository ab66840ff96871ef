"""Random facts, of which the toy benchmarks' files are made: a person has a number of animals of one color."""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from .tasks import POOLS


class Fact(NamedTuple):
    """Random content of a toy example: a person has a number of animals of one color, "Ann has 7 red cats."

    Args:
        name: Name of the person.
        animal: Kind of animal, in the singular.
        color: Color of the animals.
        number: Number of animals, from 2 to 99.
    """

    name: str
    animal: str
    color: str
    number: int

    @property
    def sentence(self) -> str:
        return f"{self.name} has {self.number} {self.color} {self.animal}s."


def facts(rng: Random, count: int) -> Iterator[Fact]:
    """Yield `count` random facts."""
    for _ in range(count):
        name, animal, color = (rng.choice(POOLS[kind]) for kind in ("name", "animal", "color"))
        yield Fact(name, animal, color, rng.randint(2, 99))


def choices(rng: Random, fact: Fact, count: int = 4) -> tuple[list[str], int]:
    """Return `count` colors, one of which is the fact's, and the index of that one."""
    options = [fact.color, *rng.sample([color for color in POOLS["color"] if color != fact.color], count - 1)]
    rng.shuffle(options)
    return options, options.index(fact.color)


def entailment(rng: Random, count: int) -> Iterator[dict[str, Any]]:
    """Yield `count` rows of premise, hypothesis and label (0: entailed, 1: not)."""
    for fact in facts(rng, count):
        label = rng.randrange(2)
        animal = fact.animal if label == 0 else rng.choice([a for a in POOLS["animal"] if a != fact.animal])
        yield {"premise": fact.sentence, "hypothesis": f"{fact.name} has {animal}s.", "label": label}
