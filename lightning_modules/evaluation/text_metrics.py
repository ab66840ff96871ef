"""Metrics of one prediction's text: token F1, the option that it names, and degeneration."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from ...datamodules.schema import EvaluationExample, Metric
from .answer_rules import answer_text, bare, squad
from .number_answers import final_number

Degeneration = Literal["", "empty", "outside the options", "no number", "too short"]
"""Fault of an answer's form; ``""`` for none."""


RATIONALE_WORDS = 12
"""A reference of this many words or more is a text: a rationale, a summary, a dialogue turn."""


SHORT_PART = 0.25
"""An answer with less than this share of the shortest reference's words is too short for a text."""


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Return token F1 in [0, 1] against the best reference, as SQuAD's evaluate-v1.1 computes it.

    Words are in lower case, without punctuation and articles. Two texts without words are equal.

    >>> token_f1("The cat sat.", ["a cat", "on the mat"])
    0.6666666666666666
    """
    return max(_f1(squad(prediction).split(), squad(reference).split()) for reference in references)


def _f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    shared = (Counter(prediction) & Counter(reference)).total()
    return 2 * shared / (len(prediction) + len(reference))


def matched_option(prediction: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that a generated answer names; None if it names none.

    An option is named by its text, or by being the only one that equals the answer up to case, quotes, brackets and
    final marks.

    >>> matched_option("yes.", ["Yes", "No"]), matched_option(">", ["<", ">"]), matched_option("5", ["-5", "7"])
    (0, 1, None)
    """
    texts = [option.strip() for option in options]
    if prediction.strip() in texts:
        return texts.index(prediction.strip())
    bare_options = [bare(option) for option in options]
    wanted = bare(prediction)
    return bare_options.index(wanted) if bare_options.count(wanted) == 1 else None


def degeneration(prediction: str, example: EvaluationExample) -> Degeneration:
    """Return how an answer deviates from the expected form, such as "too short"; "" if it does not.

    It may be empty, outside the options, without a number that can be read (if GSM8K's rule compares
    numbers), or much shorter than a reference of many words.

    OPT-IML (arXiv 2212.12017, sections 4.5 and 4.6) rejected dialogue data and demonstrations in training because of
    such answers: labels outside the label set, and answers without their rationale.
    """
    if not prediction.strip():
        return "" if any(not reference.strip() for reference in example.references) else "empty"
    if example.options and matched_option(answer_text(prediction, example), example.options) is None:
        return "outside the options"
    if example.match == "gsm8k" and final_number(prediction) is None:
        return "" if any(final_number(reference) is None for reference in example.references) else "no number"
    shortest = min(len(reference.split()) for reference in example.references)
    short = shortest >= RATIONALE_WORDS and len(prediction.split()) < SHORT_PART * shortest
    return "too short" if short else ""


def score_by_metric(
    metric: Metric, rouge_l: float, exact_match: float, *, token_f1: float = math.nan, accuracy: float = math.nan
) -> float:
    """Return the score of an answer, in [0, 1], by the metric of its task.

    With the metric accuracy, an example without options (accuracy NaN) is scored by exact match.

    Args:
        metric: The task's metric: rouge_l, exact_match, token_f1 or accuracy.
        rouge_l: ROUGE-L in [0, 1].
        exact_match: 1 for an exact match, else 0.
        token_f1: Token F1 in [0, 1]; NaN if it was not computed.
        accuracy: 1 for the right option, 0 for another; NaN for an example without options.

    Raises:
        ValueError: The metric is token F1, and it was not computed.
    """
    if metric == "token_f1" and math.isnan(token_f1):
        raise ValueError("a task's metric is token_f1, and its answers have none: evaluate again")
    if metric == "accuracy" and not math.isnan(accuracy):
        return accuracy
    return {"rouge_l": rouge_l, "token_f1": token_f1}.get(metric, float(exact_match))
