"""Text of models and data sets as a reader can see it: hidden characters are written as their numbers.

Control characters, marks that change the direction of writing and zero-width characters would otherwise make two
different texts look equal.
"""

import unicodedata

SHOWN = frozenset("\n\t")
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's control, format, surrogate, private and unassigned characters, and its line and paragraph separators."""


def visible(text: str) -> str:
    r"""Text with its hidden characters written as numbers.

    >>> visible("user\u202etxt.exe")
    'user⟨U+202E⟩txt.exe'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if c not in SHOWN and unicodedata.category(c) in HIDDEN_CATEGORIES else c for c in text
    )


def shortened(text: str, length: int) -> str:
    """At most `length` characters; the middle of a longer text is replaced by an ellipsis.

    >>> shortened("task020_mctaco_span_based_question", 20)
    'task020_mc…_question'
    """
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - length // 2 - 1) :]}"
