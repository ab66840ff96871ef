"""How readers say what they were given: kinds, near names, the first few of many; and paths as a user writes them."""

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path

N_NAMED = 3
"""Offenders that an error spells out; the rest are counted."""


def some(items: Sequence[str], total: int | None = None) -> str:
    """The first few items and how many more there are.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    total = len(items) if total is None else total
    more = f" and {total - N_NAMED} more" if total > N_NAMED else ""
    return (", ".join(items[:N_NAMED]) or "nothing") + more


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that a misspelt one may have meant.

    >>> nearest("boolk", ["boolq", "rte"])
    'nearest: boolq'
    """
    close = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    return f"nearest: {', '.join(close)}" if close else "none has a similar name"


def kind(value: object) -> str:
    """How an error names what a file holds.

    >>> kind(7), kind(["a", 7])
    ('int 7', "list ['a', 7]")
    """
    text = _SHORT.repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


_SHORT = reprlib.Repr()
"""Short even for what would be long to write out: a YAML of a few lines can hold a list of a billion."""
_SHORT.maxstring = _SHORT.maxother = 200


def expanded(path: str) -> str:
    """A path with ``~`` and environment variables filled in; a variable that is not set is refused."""
    filled = os.path.expanduser(os.path.expandvars(path))
    if unset := re.search(r"\$\{?(\w+)\}?", filled):
        name = unset.group(1)
        raise ValueError(
            f"the environment variable {name} in {path!r} is not set; "
            f"`export {name}=/path/to/the/data`, or write the path itself"
        )
    return filled


class MissingFiles(ValueError):
    """Files that a reader needs are not there: a suite lists the task as missing, everybody else stops."""


def existing_folder(folder: Path, what: str) -> Path:
    """The folder itself, or an error that says how far its path exists."""
    if not folder.is_dir():
        deepest = next(parent for parent in folder.parents if parent.is_dir())
        raise MissingFiles(f"no folder {folder}, where {what} should be; the path exists as far as {deepest}")
    return folder


def unknown_class_hint(message: str, known: Iterable[str]) -> str:
    """What to add to a parser's error about a class that it cannot find; nothing to any other error.

    >>> unknown_class_hint("Expected a dot import path string: PromptSorce", ["PromptSource", "P3"])
    '; no class is called PromptSorce, nearest: PromptSource'
    """
    found = re.search(r"(?:Expected a dot import path string: |has no attribute '|No module named ')(\w+)", message)
    if found is None or "no class is called" in message:
        return ""
    return f"; no class is called {found[1]}, {nearest(found[1], known)}"
