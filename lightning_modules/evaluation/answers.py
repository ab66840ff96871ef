"""One answer and its scores: exact match, token F1, ROUGE-L, accuracy, and whether the model degenerated."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...datamodules.rouge import rouge_l
from ...datamodules.schema import EvaluationExample, Metric

if TYPE_CHECKING:  # a report needs no torch
    from .likelihood import OptionScores

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

Degeneration = Literal["", "empty", "outside the options", "too short"]
"""How a model can lose the form of an answer altogether; ``""`` where it did not."""

RATIONALE_WORDS = 12
"""References of so many words or more call for a text: a rationale, a summary, a dialogue turn."""

SHORT_PART = 0.25
"""An answer with less than this part of the shortest reference's words is no such text."""


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces; articles stay (Super-NaturalInstructions' evaluation.py).

    For exact match alone: ROUGE has a tokenizer of its own.

    >>> normalize_answer(" The  Answer's: 'Yes'. ")
    'the answers yes'
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def exact_match(prediction: str, references: Sequence[str]) -> bool:
    """Whether a prediction equals any of its references after ``normalize_answer``."""
    return normalize_answer(prediction) in {normalize_answer(reference) for reference in references}


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over words, of the best reference (SQuAD's evaluate-v1.1).

    Words are those of ``normalize_answer`` without articles. Two texts without a word are equal.

    >>> token_f1("The cat sat.", ["a cat", "on the mat"])
    0.6666666666666666
    """
    return max(_f1(_words(prediction), _words(reference)) for reference in references)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", normalize_answer(text)).split()


def _f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    shared = (Counter(prediction) & Counter(reference)).total()
    return 2 * shared / (len(prediction) + len(reference))


def matched_option(prediction: str, options: Sequence[str]) -> int | None:
    """Which option a written answer is: the same text, or else the only one that is equal after ``normalize_answer``.

    >>> matched_option("yes.", ["Yes", "No"]), matched_option(">", ["<", ">"]), matched_option("maybe", ["Yes", "No"])
    (0, 1, None)
    """
    texts = [option.strip() for option in options]
    if prediction.strip() in texts:
        return texts.index(prediction.strip())
    normal = [normalize_answer(option) for option in options]
    wanted = normalize_answer(prediction)
    return normal.index(wanted) if normal.count(wanted) == 1 else None


def degeneration(prediction: str, example: EvaluationExample) -> Degeneration:
    """How an answer lost its form: nothing said, no option named, or a word where a text is due.

    OPT-IML left dialogue data and demonstrations in training out for it (sections 4.5 and 4.6): labels outside the
    label set, and answers without the rationale that leads to them.
    """
    if not prediction.strip():
        return "" if any(not reference.strip() for reference in example.references) else "empty"
    if example.options:
        return "outside the options" if matched_option(prediction, example.options) is None else ""
    shortest = min(len(reference.split()) for reference in example.references)
    short = shortest >= RATIONALE_WORDS and len(prediction.split()) < SHORT_PART * shortest
    return "too short" if short else ""


class Answer(NamedTuple):
    """A prediction and its scores: what evaluation steps return, one for each example.

    Args:
        example: What was asked.
        prediction: The text that was written, or the option that was chosen.
        rouge_l: In [0, 1].
        exact_match: Whether it equals a reference.
        token_f1: In [0, 1].
        accuracy: 1 where it is the right option, 0 where it is not, None for an example without options.
        degenerate: How the answer lost its form.
        options: Scores of the options, where they were ranked.
        tied: Whether another option has the score of the chosen one, which is the first of them.
    """

    example: EvaluationExample
    prediction: str
    rouge_l: float
    exact_match: bool
    token_f1: float = 0.0
    accuracy: float | None = None
    degenerate: Degeneration = ""
    options: "OptionScores | None" = None
    tied: bool = False

    @classmethod
    def of(cls, example: EvaluationExample, prediction: str) -> "Answer":
        """Score a written answer against its example's references and options."""
        references = example.references
        right = None if example.answer is None else float(matched_option(prediction, example.options) == example.answer)
        return cls(
            example,
            prediction,
            rouge_l(prediction, references),
            exact_match(prediction, references),
            token_f1(prediction, references),
            right,
            degeneration(prediction, example),
        )

    @classmethod
    def chosen(cls, example: EvaluationExample, scores: "OptionScores", place: int, tied: bool) -> "Answer":
        """Score the choice of an option."""
        right = None if example.answer is None else float(place == example.answer)
        text = example.options[place].strip()
        return cls.of(example, text)._replace(accuracy=right, options=scores, tied=tied)

    def details(self) -> dict[str, Any]:
        """What a line of JSON tells beside ROUGE-L and exact match; of ranked options, all their scores."""
        found: dict[str, Any] = {"token_f1": self.token_f1}
        if self.accuracy is not None:
            found |= {"accuracy": self.accuracy, "right_option": self.example.options[self.example.answer or 0]}
        if self.degenerate:
            found["degenerate"] = self.degenerate
        if self.options is not None:
            found["options"] = {
                option.strip(): {name: each[place] for name, each in self.options._asdict().items() if each}
                for place, option in enumerate(self.example.options)
            }
            found["tied"] = self.tied
        return found

    def score(self, metric: Metric) -> float:
        """The score by a task's own metric; accuracy without options is whether the text is right."""
        value = self.exact_match if metric == "accuracy" and self.accuracy is None else getattr(self, metric)
        return float(value)
