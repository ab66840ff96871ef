"""Exact match by the rule of each benchmark's authors: whether an answer equals a reference.

A rule takes the answer out of a text (a rationale ends in "The answer is 5") and normalizes it, so that equal answers
become equal texts. (answers.py has the scores of a prediction, latex_answers.py the rule of MATH.) Only the rules of
Super-NaturalInstructions and SQuAD can leave nothing of a text; such references are counted in the report.
docs/numerics.md has the table of benchmarks and rules.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from unicodedata import normalize

from ...datamodules.schema import EvaluationExample, MatchRule
from .latex_answers import comparable_latex, latex_answer
from .number_answers import MARKER, final_number

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DECIMAL = re.compile(r"[+-][0-9]+\.?[0-9]*|[0-9]+\.?[0-9]*|\.[0-9]+")
_OPENING, _CLOSING = "\"'([{“‘«", "\"')]}”’».,;:!?"


def folded(text: str) -> str:
    """Return the text in lower case with single spaces, and with composed characters (Unicode's form NFC).

    >>> folded(" The  Cat\\n"), folded("cafe\\u0301") == folded("caf\\u00e9")
    ('the cat', True)
    """
    return " ".join(normalize("NFC", text.casefold()).split())


def bare(text: str) -> str:
    """Return the text in lower case, without quotes and brackets around it and without marks such as a final full stop.

    White space becomes single spaces. Signs, decimal points and text that is nothing but punctuation stay.

    >>> bare("(A)"), bare(" 'Yes'. "), bare("-1.5"), bare("?")
    ('a', 'yes', '-1.5', '?')
    """
    plain = folded(text)
    return plain.lstrip(_OPENING).rstrip(_CLOSING) or plain


def super_natural_instructions(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, with single spaces; articles stay.

    So does evaluation.py of Super-NaturalInstructions normalize answers before it compares them.

    >>> super_natural_instructions(" The  Answer's: 'Yes'. ")
    'the answers yes'
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def squad(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation and articles, with single spaces.

    So does SQuAD's evaluate-v1.1 normalize answers before it compares them.

    >>> squad("The cat's")
    'cats'
    """
    return " ".join(_ARTICLES.sub(" ", super_natural_instructions(text)).split())


def final_answer(text: str) -> str:
    """Return the rest of the line after the last "answer is", without a full stop; the whole text if there is none.

    >>> final_answer("Two and two are four. So the answer is (A)."), final_answer(" (A) ")
    ('(A)', '(A)')
    """
    *before, last = MARKER.split(text)
    line = last.strip().partition("\n")[0] if before else last.strip()
    return line.removesuffix(".").rstrip() or text.strip()


def formula(text: str) -> str:
    """Return the content of the last \\boxed{}; without one, what follows the last "answer is" (``final_answer``)."""
    return latex_answer(text) or final_answer(text)


def number(text: str) -> str:
    """Return the number of the final answer, by value; without a number, the text in lower case.

    >>> number("The answer is 4.50"), number("No  Idea")
    ('4.5', 'no idea')
    """
    return final_number(text) or folded(text)


def spans(text: str) -> str:
    """Return the comma-separated parts of a text in alphabetical order, with numbers by value.

    So does metrics/unified/evaluator.py of UnifiedSKG compare answers that list several cells of a table.

    >>> spans("Rome, 2") == spans("2.0, Rome")
    True
    """
    parts = [part.strip() for part in text.split(", ")]
    return ", ".join(sorted(str(float(part)) if _DECIMAL.fullmatch(part) else part for part in parts))


class Rule(NamedTuple):
    """The comparison of a prediction with a reference by a benchmark's authors.

    Args:
        answer: Returns the part of a text that is the answer.
        comparable: Returns the normalized answer of a text; two answers are equal if these are.
    """

    answer: Callable[[str], str]
    comparable: Callable[[str], str]


RULES: Mapping[MatchRule, Rule] = {
    "text": Rule(str.strip, folded),
    "super_natural_instructions": Rule(str.strip, super_natural_instructions),
    "squad": Rule(str.strip, squad),
    "bbh": Rule(final_answer, final_answer),
    "bigbench": Rule(str.strip, str.strip),
    "gsm8k": Rule(final_answer, number),
    "math": Rule(formula, lambda text: comparable_latex(formula(text))),
    "unifiedskg": Rule(str, spans),
    "rationale": Rule(final_answer, lambda text: folded(final_answer(text))),
}
"""The rules by the authors' names."""

UPSTREAM_ERASES: frozenset[MatchRule] = frozenset({"super_natural_instructions", "squad"})
"""Rules that leave nothing of a text that is all punctuation (or articles), as their authors publish them."""


def exact_match(prediction: str, references: Sequence[str], rule: MatchRule = "text", pattern: str = "") -> bool:
    """Return whether a prediction equals any of its references by a rule.

    Args:
        prediction: The generated text.
        references: Accepted answers.
        rule: Name of a rule in ``RULES``; "text" ignores case and white space.
        pattern: Regular expression that finds the answer in the prediction; empty for the whole prediction. If the
            pattern would cut a reference, that reference is compared with the whole prediction: sentences of
            BIG-bench's `tense` end in a full stop, and its default pattern ends before one.
    """
    return any(
        comparable(_matched(prediction, pattern, reference), rule) == comparable(reference, rule)
        for reference in references
    )


def comparable(text: str, rule: MatchRule) -> str:
    """Return the answer in a text, normalized by a benchmark's rule; equal answers give equal strings.

    >>> comparable("Two and two are four. So the answer is (A).", "bbh"), comparable("It is 4.0", "gsm8k")
    ('(A)', '4')
    """
    form = RULES[rule].comparable(text)
    return form if form or rule in UPSTREAM_ERASES else folded(text)


def leaves_nothing(rule: MatchRule, reference: str) -> bool:
    """Return whether a rule's normalization removes a whole reference, so that an empty answer would equal it.

    >>> leaves_nothing("squad", "The"), leaves_nothing("text", "The")
    (True, False)
    """
    return bool(reference.strip()) and not comparable(reference, rule)


def answer_text(text: str, example: EvaluationExample) -> str:
    """Return the part of a text that answers an example: what follows its rationale, or its pattern's first match."""
    return RULES[example.match].answer(_first_match(example.answer_pattern, text))


def _matched(prediction: str, pattern: str, reference: str) -> str:
    whole = not pattern or _first_match(pattern, reference) != reference.strip()
    return prediction if whole else _first_match(pattern, prediction)


def _first_match(pattern: str, text: str) -> str:
    """Return the pattern's first match in a text, or its group; empty without a match.

    The whole text without a pattern.
    """
    if not pattern:
        return text
    match = _compiled(pattern).search(text.strip())
    return match.group(match.re.groups).strip() if match else ""


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
