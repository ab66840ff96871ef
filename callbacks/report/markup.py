"""HTML and SVG from text that nobody has checked: everything is escaped unless it was made here.

Predictions are written by models and references by strangers. What cannot be seen (control characters, marks that turn
the direction of writing, zero-width characters) is shown by its number, so that two texts that look alike are alike.
"""

import html
import unicodedata

SHOWN = frozenset("\n\t")
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's control, format, surrogate, private and unassigned characters, and its line and paragraph separators."""


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put into an element."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Text with its hidden characters written out.

    >>> visible("user\u202etxt.exe")
    'user⟨U+202E⟩txt.exe'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if c not in SHOWN and unicodedata.category(c) in HIDDEN_CATEGORIES else c for c in text
    )


def escaped(text: object) -> Markup:
    """Text as HTML shows it, in elements and attributes alike; markup stays as it is.

    >>> escaped("<script>")
    '&lt;script&gt;'
    """
    return text if isinstance(text, Markup) else Markup(html.escape(visible(str(text)), quote=True))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """An element with its children; an attribute's trailing ``_`` is dropped, others become ``-``, None leaves it out.

    >>> element("p", "a < b", element("b", "c"), class_="note")
    '<p class="note">a &lt; b<b>c</b></p>'
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{said}>{join(children)}</{name}>")


def join(parts: object) -> Markup:
    """Parts one after the other, texts escaped."""
    return Markup("".join(map(escaped, parts)))  # type: ignore[call-overload]


def shortened(text: str, length: int) -> str:
    """At most `length` characters, the middle left out.

    >>> shortened("task020_mctaco_span_based_question", 20)
    'task020_mc…_question'
    """
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - length // 2 - 1) :]}"
