"""Construction of scored pairs: an instruction, a response, and its correctness in [0, 1] (Cappy, arXiv 2311.06720).

An example gives three kinds of pairs. Its references have the label 1. Mismatches have the label 0: the wrong options
of an example with options, or references of other examples of its task. Responses sampled from language models are
labelled by a function, by default ROUGE-L against the references.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from ..schema import Example

CorrectnessLabel = Callable[[str, Sequence[str]], float]
"""(response, references) -> correctness in [0, 1], e.g. ``rouge.rouge_l``."""


class ScoredPair(NamedTuple):
    """A response to an instruction, with its label.

    Args:
        instruction: Text of the rendered instruction.
        response: Text of the response.
        correctness: Label in [0, 1].
        example: Index of the example among the task's training examples.
    """

    instruction: str
    response: str
    correctness: float
    example: int = 0


NO_MISMATCH = "no mismatch in its task"
"""Reason of an example whose task has no other reference."""


class References:
    """References of all examples of a task, from which wrong responses (mismatches) to other examples are drawn.

    Examples with the same input share their references, so that a mismatch of one is never a reference of the other.

    Args:
        examples: All examples of the task.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._of: dict[str, dict[str, None]] = defaultdict(dict)
        for example in examples:
            self._of[example.input.strip()].update(dict.fromkeys(correct_responses(example)))
        self.texts = sorted({text for references in self._of.values() for text in references})

    def of(self, example: Example) -> list[str]:
        """Return all references of an example's input, those of the example first."""
        return list(dict.fromkeys([*correct_responses(example), *self._of.get(example.input.strip(), ())]))

    def draw(self, count: int, rng: Random, *, avoid: Collection[str]) -> list[str]:
        """Draw `count` different references of the task uniformly; fewer if the task has fewer.

        Args:
            count: Number of references.
            rng: Random generator of the draw.
            avoid: References that are not drawn.

        >>> examples = [Example("t", str(i), i, f"input {i}", (text,)) for i, text in enumerate(["a", "b", "c"])]
        >>> sorted(References(examples).draw(2, Random(0), avoid={"b"}))
        ['a', 'c']
        """
        drawn: dict[str, None] = {}
        # Most draws are new; if few texts remain, the loop below draws among those left.
        for _ in range(8 * count if self.texts else 0):
            text = self.texts[int(rng.random() * len(self.texts))]
            if text not in avoid:
                drawn[text] = None
            if len(drawn) == count:
                return list(drawn)
        rest = [text for text in self.texts if text not in avoid and text not in drawn]
        while rest and len(drawn) < count:
            drawn[rest.pop(int(rng.random() * len(rest)))] = None
        return list(drawn)


def stripped(texts: Iterable[str]) -> list[str]:
    """Return texts without surrounding white space; empty ones are left out."""
    return [text.strip() for text in texts if text.strip()]


def correctness_of_responses(
    example: Example,
    references: References,
    samples: Sequence[str],
    rng: Random,
    *,
    label: CorrectnessLabel,
    mismatches: int | None = None,
) -> dict[str, float] | str:
    """Return the distinct responses to an example with their correctness, or the reason why it has no wrong response.

    References have correctness 1, wrong responses 0, and samples what `label` gives them. Wrong responses are the
    other options of the example. An example without options gets mismatches: references of other examples of its task.
    A mismatch is never a reference of an example with the same input. It is equal to a sample only if the task has no
    other reference. A response that occurs twice keeps its first label, in the order reference, wrong response, sample.

    Args:
        example: The example.
        references: References of all examples of the task.
        samples: Responses to the example, sampled from language models.
        rng: Random generator that draws the mismatches.
        label: Function (response, references) -> correctness in [0, 1] that labels a sample.
        mismatches: Number of mismatches for an example without options; None for as many as it has references.

    Returns:
        The correctness of each response, or the reason, e.g. "no wrong option".
    """
    correct, right = correct_responses(example), references.of(example)
    responses = dict.fromkeys(correct, 1.0)
    if example.options:
        wrong = [option for option in stripped(example.options) if option not in right]
    else:
        count = len(correct) if mismatches is None else mismatches
        wrong = references.draw(count, rng, avoid={*right, *samples}) or references.draw(count, rng, avoid=right)
    for response in wrong:
        responses.setdefault(response, 0.0)
    if 0.0 not in responses.values():
        return "no wrong option" if example.options else NO_MISMATCH
    for response in samples:
        if response not in responses:
            responses[response] = 1.0 if response in right else _checked(label, response, right)
    return responses


def correct_responses(example: Example) -> list[str]:
    """Return the references of an example and its right option, without surrounding white space, each once."""
    gold = () if example.answer is None else (example.options[example.answer],)
    return list(dict.fromkeys(stripped((*example.targets, *gold))))


class UnlabelledExample(NamedTuple):
    """Training example with instruction and sampled responses, before its responses get their correctness.

    Args:
        example: The example.
        instruction: Text of its rendered instruction.
        samples: Responses to it, sampled from language models.
        rng: Random generator that draws its mismatches, i.e. references of other examples that serve as wrong
            responses.
    """

    example: Example
    instruction: str
    samples: Sequence[str]
    rng: Random


def pairs_as_released(
    examples: Sequence[UnlabelledExample], references: References, *, label: CorrectnessLabel
) -> list[list[tuple[str, float]]]:
    """Return the (response, correctness) of each example of a task, labelled as in Cappy's released program.

    A mismatch is a reference drawn for another example, with correctness 0. A pair of instruction and response that
    occurs several times in the task keeps its first label, in the order reference, mismatch, sample. Equal references
    of equal instructions are several pairs. For each reference one mismatch is drawn from all references of the task,
    and dropped if its pair has a label already, so that some examples have no wrong response. A sample is labelled
    against the references of its own example. That program has no options; here, wrong options are labelled as
    mismatches.

    Source: tanyuqian/cappy, cappy_bigbench.py, get_cappy_dataset.

    Args:
        examples: All training examples of the task.
        references: References of the task.
        label: Function (response, references) -> correctness in [0, 1] that labels a sample.
    """
    pairs = [[(text, 1.0) for text in _released_references(one.example)] for one in examples]
    claimed = {(one.instruction, text) for one, of_one in zip(examples, pairs, strict=True) for text, _ in of_one}

    def claim(place: int, response: str, correctness: Callable[[], float]) -> None:
        key = (examples[place].instruction, response)
        if key not in claimed:
            claimed.add(key)
            pairs[place].append((response, correctness()))

    for place, one in enumerate(examples):
        wrong = stripped(one.example.options) or [
            references.texts[int(one.rng.random() * len(references.texts))] for _ in pairs[place]
        ]
        for response in wrong:
            claim(place, response, lambda: 0.0)
    for place, one in enumerate(examples):
        right = correct_responses(one.example)
        for response in one.samples:
            claim(place, response, partial(_checked, label, response, right))
    return pairs


def _released_references(example: Example) -> list[str]:
    """Return the references of an example, repeated ones included, and its right option."""
    texts = stripped(example.targets)
    return texts + [text for text in correct_responses(example) if text not in texts]


def _checked(label: CorrectnessLabel, response: str, references: Sequence[str]) -> float:
    correctness = label(response, references)
    if not 0.0 <= correctness <= 1.0:
        name = getattr(label, "__name__", repr(label))
        raise ValueError(f"correctness must lie in [0, 1], got {correctness} from {name} for {response[:60]!r}")
    return correctness


class DistinctPairs:
    """Set of the (instruction, response) pairs of a task, by which repeated pairs are left out; 16 bytes a pair."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def add(self, pair: ScoredPair) -> bool:
        """Add a pair; return whether it is new."""
        key = json.dumps(pair[:2]).encode()
        digest = hashlib.blake2b(key, digest_size=16).digest()
        new = digest not in self._seen
        self._seen.add(digest)
        return new
