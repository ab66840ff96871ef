"""Metrics of one prediction's text: exact match, token F1, the option it names, and degeneration."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from ...datamodules.schema import EvaluationExample, Metric

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


_ARTICLES = re.compile(r"\b(a|an|the)\b")


Degeneration = Literal["", "empty", "outside the options", "too short"]
"""How an answer can lose its form; ``""`` if it did not."""


RATIONALE_WORDS = 12
"""A reference of this many words or more is a text: a rationale, a summary, a dialogue turn."""


SHORT_PART = 0.25
"""An answer with less than this share of the shortest reference's words is too short for a text."""


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces; articles stay (Super-NaturalInstructions' evaluation.py).

    For exact match and token F1; ROUGE has its own tokenizer.

    >>> normalize_answer(" The  Answer's: 'Yes'. ")
    'the answers yes'
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def exact_match(prediction: str, references: Sequence[str]) -> bool:
    """Whether a prediction equals any of its references after ``normalize_answer``."""
    return normalize_answer(prediction) in {normalize_answer(reference) for reference in references}


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Token F1 in [0, 1] against the best reference, as SQuAD's evaluate-v1.1 computes it.

    Words are those of ``normalize_answer`` without articles. Two texts without words are equal.

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
    """Place of the option that a generated answer names; None if it names none.

    An option is named by its text, or by being the only one that is equal after ``normalize_answer``.

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
    """How an answer lost its form: empty, none of the options, or too short for a text.

    OPT-IML rejected dialogue data and demonstrations in training for such answers (sections 4.5 and 4.6): labels
    outside the label set, and answers without their rationale.
    """
    if not prediction.strip():
        return "" if any(not reference.strip() for reference in example.references) else "empty"
    if example.options:
        return "outside the options" if matched_option(prediction, example.options) is None else ""
    shortest = min(len(reference.split()) for reference in example.references)
    short = shortest >= RATIONALE_WORDS and len(prediction.split()) < SHORT_PART * shortest
    return "too short" if short else ""


def score_by_metric(
    metric: Metric, rouge_l: float, exact_match: float, *, token_f1: float = math.nan, accuracy: float = math.nan
) -> float:
    """An instance's score in [0, 1] by its task's metric; accuracy without options is exact match.

    Raises:
        ValueError: The metric is token F1, and it was not computed.
    """
    if metric == "token_f1" and math.isnan(token_f1):
        raise ValueError("a task's metric is token_f1, and its answers have none: evaluate again")
    if metric == "accuracy" and not math.isnan(accuracy):
        return accuracy
    return {"rouge_l": rouge_l, "token_f1": token_f1}.get(metric, float(exact_match))
