"""What the files of toy families tell: somebody has a number of animals of a color; and how files are written."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
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


def write_text(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_json(folder: Path, name: str, record: object) -> None:
    write_text(folder, name, json.dumps(record, indent=1) + "\n")


def write_lines(folder: Path, name: str, records: Iterable[object]) -> None:
    write_text(folder, name, "".join(json.dumps(record) + "\n" for record in records))


def write_tsv(folder: Path, name: str, rows: Iterable[Sequence[object]]) -> None:
    write_text(folder, name, "".join("\t".join(map(str, row)) + "\n" for row in rows))


def write_csv(folder: Path, name: str, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder, name, text.getvalue())


def entailment(rng: Random, count: int) -> Iterator[dict[str, Any]]:
    for fact in facts(rng, count):
        label = rng.randrange(2)
        animal = fact.animal if label == 0 else rng.choice([a for a in POOLS["animal"] if a != fact.animal])
        yield {"premise": fact.sentence, "hypothesis": f"{fact.name} has {animal}s.", "label": label}
