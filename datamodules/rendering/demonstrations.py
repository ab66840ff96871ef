"""Solved examples before the one that is asked: how many, which ones, where they stand, and what of them is trained.

A prompt with two demonstrations, of a task-level and of an instance-level benchmark (``|`` where the loss begins)::

    definition SEP input delimiter target SEP input delimiter target SEP input delimiter | target
               SEP                          prompt delimiter target SEP prompt delimiter | target

With the suffix loss of OPT-IML (arXiv 2212.12017, table 8) it begins at the first demonstration's target, and
everything after that is trained: the target of a document is then a longer suffix of the same text, so that tokens,
rows and batches need to know nothing of it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..schema import Example, Prompt, Task
from .prompts import Pieces, PromptForm

Item = TypeVar("Item")

DRAWN = 2
"""The rendering index of the generator that draws demonstrations: another stream than the prompt's own."""

LARGEST_POOL = 1024
"""Examples of a task that serve as demonstrations; they are held in memory while its documents are written."""


@dataclass(frozen=True)
class Demonstrations:
    """Training with demonstrations (MetaICL, arXiv 2110.15943, as OPT-IML has it).

    Args:
        exponent: Of the law of their number: 4 leaves 92.5% of the prompts without any, 2 leaves 67.1%.
        most: Largest number.
        separator: Between examples.
        suffix_loss: Whether everything after the first demonstration's input is trained, or the last target alone.
    """

    exponent: float = 4.0
    most: int = 5
    separator: str = "\n\n\n"
    suffix_loss: bool = False

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most must be at least 1, got {self.most}")

    def number(self, rng: random.Random) -> int:
        """How many demonstrations a prompt shows."""
        draw, total = rng.random(), 0.0
        for number, share in enumerate(number_shares(self.exponent, self.most)):
            total += share
            if draw < total:
                return number
        return self.most


def number_shares(exponent: float, most: int) -> list[float]:
    """Share of prompts with 0, 1 ... `most` demonstrations: Zipf's law, truncated and renormalised.

    OPT-IML's footnote has larger numbers set to 5, but the shares it reports, 92.5% and 67.1%, are those of the
    truncated law; setting them to 5 would give 92.4% and 60.8%.

    >>> [f"{number_shares(exponent, 5)[0]:.3%}" for exponent in (4, 2)]
    ['92.496%', '67.052%']
    """
    weights = [(number + 1) ** -exponent for number in range(most + 1)]
    return [weight / sum(weights) for weight in weights]


def choose(pool: Sequence[Example], example: Example | None, number: int, rng: random.Random) -> list[Example]:
    """Different examples of a pool, never the asked one in any template; fewer where the pool holds no more.

    Those of the asked example's own template come first: a prompt then reads alike from beginning to end.
    """
    rows = {example.index} if example is not None else set()
    groups = [list(pool)]
    if example is not None and example.template is not None:
        groups = [
            [e for e in pool if e.template == example.template],
            [e for e in pool if e.template != example.template],
        ]
    found: list[Example] = []
    for group in groups:
        while group and len(found) < number:
            candidate = _popped(group, rng)
            if candidate.index not in rows:
                rows.add(candidate.index)
                found.append(candidate)
    return found


def with_demonstrations(
    form: PromptForm,
    task: Task,
    example: Example,
    shown: Sequence[Example],
    generator: Callable[[], random.Random],
    separator: str,
    *,
    suffix_loss: bool = False,
) -> Prompt:
    """The prompt of an example after solved ones.

    Args:
        form: How one example is rendered.
        task: Its task.
        example: What is asked.
        shown: Demonstrations, in order.
        generator: Makes the generator of the asked example's rendering; all are rendered with one in the same state, so
            that field names and delimiter are the same throughout.
        separator: Between examples.
        suffix_loss: Whether the target begins with the first demonstration's.
    """
    asked = form.pieces(task, example, generator())
    if not shown or not asked.asked:
        return Prompt(asked.alone, asked.target)
    solved = [form.pieces(task, demonstration, generator()) for demonstration in shown]
    head = [asked.instructions] if asked.instructions else []
    if suffix_loss:
        first, *others = solved
        parts = [first.target, *map(_solved, others), f"{asked.asked.rstrip(' ')} {asked.target}"]
        return Prompt(separator.join([*head, first.asked]), separator.join(parts))
    return Prompt(separator.join([*head, *map(_solved, solved), asked.asked]), asked.target)


def _solved(pieces: Pieces) -> str:
    return f"{pieces.asked.rstrip(' ')} {pieces.target}"


def _popped(items: list[Item], rng: random.Random) -> Item:
    # Of all methods of random.Random, only random() is promised to be the same in every version of Python.
    place = int(rng.random() * len(items))
    items[place], items[-1] = items[-1], items[place]
    return items.pop()
