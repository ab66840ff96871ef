"""Comparison of answers in LaTeX by the rule of MATH (arXiv 2103.03874; hendrycks/math, math_equivalence.py)."""

import re

from ...datamodules.benchmarks.reasoning_rows import last_boxed

_STEPS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\n|\\!", ""),
        (r"\\\\", r"\\"),
        (r"[td]frac", "frac"),
        (r"\\left|\\right", ""),
        (r"\^\{\\circ\}|\^\\circ", ""),
        (r"\\\$", ""),
        (r"\\text\{ .*", ""),  # a unit on the right
        (r"\\?%", ""),
        (r"(^|[ {])\.", r"\g<1>0."),
        (r"^[^=]{0,2}=(?=[^=]*$)", ""),  # "x = 2" and "2" are equal
        (r"\\sqrt([^{])", r"\\sqrt{\1}"),
        (r" ", ""),
        (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"),
        (r"\\frac([^{])(?=\{)", r"\\frac{\1}"),
        (r"^0\.5$", r"\\frac{1}{2}"),
        (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
    )
]
"""Substitutions in the authors' order."""


def latex_answer(text: str) -> str | None:
    r"""Return the content of the last \boxed{} without dollar signs; None if there is none.

    >>> latex_answer(r"Then $x = 2$, so \boxed{$\frac{1}{2}$}.")
    '\\frac{1}{2}'
    """
    boxed = last_boxed(text)
    return None if boxed is None else _without_dollars(boxed)


def comparable_latex(answer: str) -> str:
    r"""Return an answer in LaTeX in a normal form: equal answers have equal forms.

    >>> comparable_latex(r"x = \tfrac12"), comparable_latex("1/2"), comparable_latex(r"10\text{ units}")
    ('\\frac{1}{2}', '\\frac{1}{2}', '10')
    """
    text = _without_dollars(answer)
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    return text


def _without_dollars(text: str) -> str:
    """Return the text without dollar signs around it."""
    formula = re.fullmatch(r"\s*\$([^$]*[^$\\])\$\s*", text)
    return formula[1] if formula else text.strip()
