"""Few-shot prompts for training: the number and choice of demonstrations, and the part of the text that is trained.

A prompt with two demonstrations (the loss begins at ``|``, SEP is a separator). In the first task one instruction
serves all examples, in the second each example's prompt has its own::

    definition SEP input delimiter target SEP input delimiter target SEP input delimiter | target
               SEP                          prompt delimiter target SEP prompt delimiter | target

In a conversation, demonstrations are earlier turns: a message and its answer each.

With the suffix loss of OPT-IML (arXiv 2212.12017, table 8) the loss begins at the first demonstration's target and
covers everything after it. The prompt's target is then a longer suffix of the same text, so tokenization, packing and
batches need no special case. Few-shot evaluation is in ``evaluation/few_shot.py``.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..schema import Example, Prompt, Task
from ..splits import answered_texts
from .prompts import ChatPrompt, PromptForm, PromptParts

Item = TypeVar("Item")

DEMONSTRATION_STREAM = 2
"""Argument `rendering` of ``rendering_rng`` for the generator that draws demonstrations; the prompt's own has 0."""

POOL_SIZE = 1024
"""Maximum number of training examples of a task that serve as demonstrations, in memory while it is prepared."""


@dataclass(frozen=True)
class Demonstrations:
    """Settings of demonstrations in training prompts (MetaICL, arXiv 2110.15943, in the form of OPT-IML).

    Args:
        exponent: Exponent of Zipf's law for the number of demonstrations. With 4, 92.5% of the prompts have none; with
            2, 67.1%, at the default of `most`.
        most: Largest number of demonstrations.
        separator: Text between examples.
        suffix_loss: Compute the loss on everything after the first demonstration's input: the targets of the
            demonstrations, and the inputs that follow the first one. If false, the loss is on the last target only.
        chosen: Folder of learned instructions with chosen demonstrations (`crosstask export` of a direct_extractor).
            The examples that were chosen for a task come first. Null draws all at random.
    """

    exponent: float = 4.0
    most: int = 5
    separator: str = "\n\n\n"
    suffix_loss: bool = False
    chosen: str | None = None

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"demonstrations.most must be at least 1, got {self.most}")
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"demonstrations.exponent must be finite and at least 0, got {self.exponent}")

    def draw_number(self, rng: random.Random) -> int:
        """Draw the number of demonstrations of one prompt."""
        draw, total = rng.random(), 0.0
        for number, share in enumerate(number_shares(self.exponent, self.most)):
            total += share
            if draw < total:
                return number
        return self.most


def number_shares(exponent: float, most: int) -> list[float]:
    """Return the shares of prompts with 0, 1 ... `most` demonstrations: Zipf's law, truncated and renormalised.

    A footnote of OPT-IML (arXiv 2212.12017) sets larger numbers to 5, but the shares that the paper reports, 92.5% and
    67.1%, are those of the truncated law; setting larger numbers to 5 would give 92.4% and 60.8%.

    >>> [f"{number_shares(exponent, 5)[0]:.3%}" for exponent in (4, 2)]
    ['92.496%', '67.052%']
    """
    weights = [(number + 1) ** -exponent for number in range(most + 1)]
    return [weight / sum(weights) for weight in weights]


def choose_demonstrations(
    pool: Sequence[Example], example: Example | None, number: int, rng: random.Random
) -> list[Example]:
    """Draw up to `number` demonstrations for an example, which differ from it and from each other in row and text.

    Examples with the template of `example` are drawn first, so that a prompt keeps one wording.

    Args:
        pool: Examples to draw from.
        example: The example to solve; None to draw for no particular one.
        number: Demonstrations to draw; fewer are returned if the pool is too small.
        rng: Generator of the draws.
    """
    rows, texts = ({example.index}, {*answered_texts(example)}) if example is not None else (set(), set())
    groups = [list(pool)]
    if example is not None and example.template is not None:
        groups = [
            [e for e in pool if e.template == example.template],
            [e for e in pool if e.template != example.template],
        ]
    demonstrations: list[Example] = []
    for group in groups:
        while group and len(demonstrations) < number:
            drawn = _pop_random(group, rng)
            if drawn.index not in rows and texts.isdisjoint(own := answered_texts(drawn)):
                rows.add(drawn.index)
                texts |= own
                demonstrations.append(drawn)
    return demonstrations


def without_example(demonstrations: Iterable[Example], example: Example) -> list[Example]:
    """Return the demonstrations that do not reveal the example's answer: those with another row and another text."""
    own = answered_texts(example)
    others = [one for one in demonstrations if one.index != example.index]
    return [one for one in others if own.isdisjoint(answered_texts(one))]


def with_demonstrations(
    form: PromptForm,
    task: Task,
    example: Example,
    demonstrations: Sequence[Example],
    generator: Callable[[], random.Random],
    separator: str,
    *,
    suffix_loss: bool = False,
) -> Prompt:
    """Return a few-shot prompt: instructions, solved demonstrations, and the example to solve.

    Args:
        form: Renders the example and each demonstration.
        task: Task of the example and its demonstrations.
        example: The example to solve.
        demonstrations: Solved examples, in order.
        generator: Function that returns a new generator in the state of the example's rendering. Every part is rendered
            from that state, so that field names and delimiter are the same throughout the prompt.
        separator: Text between examples.
        suffix_loss: Whether the target begins with the first demonstration's target; if false, it is the example's
            target alone.
    """
    parts = form.parts(task, example, generator())
    if not demonstrations or not parts.query:
        return Prompt(parts.source, parts.target)
    solved = [form.parts(task, demonstration, generator()) for demonstration in demonstrations]
    head = [parts.instructions] if parts.instructions else []
    if suffix_loss:
        first, *others = solved
        suffix = [first.target, *map(solved_text, others), solved_text(parts)]
        return Prompt(separator.join([*head, first.query]), separator.join(suffix))
    return Prompt(separator.join([*head, *map(solved_text, solved), parts.query]), parts.target)


def conversation_with_demonstrations(
    form: ChatPrompt,
    task: Task,
    example: Example,
    demonstrations: Sequence[Example],
    generator: Callable[[], random.Random],
    separator: str,
    *,
    suffix_loss: bool = False,
) -> Prompt:
    """Return a few-shot prompt as one conversation, whose earlier turns are the demonstrations.

    It has one system turn, the example's own.

    Args:
        form: Renders the example and each demonstration as a conversation.
        task: Task of the example and its demonstrations.
        example: The example to solve.
        demonstrations: Solved examples, in order.
        generator: Function that returns a new generator in the state of the example's rendering. Every part is rendered
            from that state, so that field names and delimiter are the same throughout the prompt.
        separator: Text between examples in the plain-text form of the prompt, which tables and reports show.
        suffix_loss: Whether the answers of the demonstrations are trained, too.
    """
    if not demonstrations:
        return form(task, example, generator())
    first, *others = demonstrations
    solved = [form(task, first, generator()), *(form.after_others(task, other, generator()) for other in others)]
    own = form.after_others(task, example, generator())
    system = own.turns[: own.turns[0].role == "system"]
    earlier = [turn for prompt in solved for turn in prompt.turns if turn.role != "system"]
    answers = sum(turn.role == "assistant" for turn in earlier)
    return replace(
        own,
        source=separator.join([*(f"{prompt.source} {prompt.target}" for prompt in solved), own.source]),
        turns=(*system, *earlier, *own.turns[len(system) :]),
        demonstrated=0 if suffix_loss else answers,
    )


def solved_text(parts: PromptParts) -> str:
    """Return the text of a demonstration: the example up to its delimiter, and its target."""
    return f"{parts.query.rstrip(' ')} {parts.target}"


def _pop_random(items: list[Item], rng: random.Random) -> Item:
    # Of all methods of random.Random, only random() is promised to be the same in every version of Python.
    place = int(rng.random() * len(items))
    items[place], items[-1] = items[-1], items[place]
    return items.pop()
