"""Text of models and data sets made safe to print: hidden characters are written as numbers, and markup is escaped.

Control characters, marks that change the direction of writing and zero-width characters would otherwise make two
different texts look equal, and a terminal would obey its control sequences.
"""

import re
import unicodedata

from rich.markup import escape

SHOWN = frozenset("\n\t")
"""Control characters that are printed as they are."""
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's control, format, surrogate, private and unassigned characters, and its line and paragraph separators."""


def visible(text: str) -> str:
    r"""Return the text with its hidden characters written as numbers.

    >>> visible("user\u202etxt.exe")
    'user⟨U+202E⟩txt.exe'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if c not in SHOWN and unicodedata.category(c) in HIDDEN_CATEGORIES else c for c in text
    )


def shortened(text: str, length: int) -> str:
    """Return at most `length` characters of a text; the middle of a longer one is replaced by an ellipsis.

    >>> shortened("task020_mctaco_span_based_question", 20)
    'task020_mc…_question'
    """
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - length // 2 - 1) :]}"


def terminal_text(text: str) -> str:
    """Return text that is safe to print to a terminal by rich: no control sequences, and its markup escaped.

    >>> print(terminal_text("a[red]b" + chr(27) + "[2J"))
    a\\[red]b⟨U+001B⟩[2J
    """
    return escape(visible(text))


def escape_markdown(text: str) -> str:
    """Return text for a line or table cell in Markdown: markup, bars, hidden characters and line breaks are escaped.

    >>> escape_markdown("a|b <b>")
    'a\\\\|b &lt;b&gt;'
    """
    text = " ".join(visible(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\\", "\\\\")
    for mark in "|`*_[]~$":
        text = text.replace(mark, f"\\{mark}")
    return text


def markdown_code(text: str) -> str:
    """Return text as inline code in Markdown, between more backticks than follow each other in it.

    >>> markdown_code("a ``b``")
    '``` a ``b`` ```'
    """
    text = " ".join(visible(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
