"""Patterns of task names, in which ``*`` stands for whole words."""

import re
from collections.abc import Iterable
from functools import lru_cache


def name_matches(name: str, pattern: str) -> bool:
    """Return whether the whole name of a task fits a pattern, in which ``*`` is any text but cuts no word.

    Words are runs of letters and digits. In ``collection/task``, a ``*`` before the slash matches no slash.

    >>> [name_matches(name, "*/*wic*") for name in ("flan/wic", "p3/super_glue_wic-2", "toy/copy_twice_words")]
    [True, True, False]
    >>> [name_matches(name, "flan*") for name in ("flan", "flan_dev", "flanders")]
    [True, True, False]
    """
    return _compiled(pattern).fullmatch(name) is not None


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return whether at least one of the patterns matches the whole name."""
    return any(name_matches(name, pattern) for pattern in patterns)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    collection, slash, task = pattern.rpartition("/")
    return re.compile(_expression(collection, "[^/]*") + re.escape(slash) + _expression(task, ".*"), re.DOTALL)


def _expression(pattern: str, any_text: str) -> str:
    """Return the regular expression of a part of a pattern: where a word meets a ``*``, the word ends.

    >>> _expression("a*", ".*")
    'a(?![^\\\\W_]).*'
    """
    first, *others = re.split(r"(\*+)", pattern)
    expression = re.escape(first)
    previous = first
    for piece in others:
        if piece.startswith("*"):
            expression += (r"(?![^\W_])" if previous[-1:].isalnum() else "") + any_text
        else:
            expression += (r"(?<![^\W_])" if piece[:1].isalnum() else "") + re.escape(piece)
        previous = piece
    return expression
