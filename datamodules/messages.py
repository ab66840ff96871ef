"""Parts of error messages: kinds of values, similar names, the first few of many items; and paths with variables."""

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from .noted_paths import note

N_NAMED = 3
"""Items that an error names; the others are counted."""


def some(items: Sequence[str], total: int | None = None) -> str:
    """The first few items and how many more there are.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    total = len(items) if total is None else total
    more = f" and {total - N_NAMED} more" if total > N_NAMED else ""
    return (", ".join(items[:N_NAMED]) or "nothing") + more


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "task"), counted(1200, "task")
    ('1 task', '1,200 tasks')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that are most similar to a misspelt one.

    >>> nearest("boolk", ["boolq", "rte"])
    'nearest: boolq'
    """
    close = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    return f"nearest: {', '.join(close)}" if close else "none has a similar name"


def kind(value: object) -> str:
    """The type and the beginning of a value.

    >>> kind(7), kind(["a", 7])
    ('int 7', "list ['a', 7]")
    """
    text = _SHORT.repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


_SHORT = reprlib.Repr()
"""Short for any value: a YAML of a few lines can hold a list of a billion items."""
_SHORT.maxstring = _SHORT.maxother = 200


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path, given as text or ``Path``, with ``~`` and environment variables replaced: wherever a user names one.

    Raises:
        ValueError: A variable is not set.
    """
    filled = os.path.expanduser(os.path.expandvars(os.fspath(path)))
    if unset := re.search(r"\$\{?(\w+)\}?", filled):
        name = unset.group(1)
        raise ValueError(
            f"the environment variable {name} in {os.fspath(path)!r} is not set; "
            f"`export {name}=/path/to/the/data`, or write the path itself"
        )
    return Path(filled)


class MissingFiles(ValueError):
    """Files that a reader needs do not exist. A suite reports the task as missing; other readers stop."""


def existing_folder(folder: Path, what: str) -> Path:
    """The folder itself.

    Raises:
        MissingFiles: It does not exist; names the deepest parent that does.
    """
    if not folder.is_dir():
        note(folder)
        deepest = next(parent for parent in folder.parents if parent.is_dir())
        raise MissingFiles(f"no folder {folder}, where {what} should be; the path exists as far as {deepest}")
    return folder


def unknown_class_hint(message: str, known: Iterable[str]) -> str:
    """The nearest class names, to be added to a parser's error about an unknown class; empty for other errors.

    >>> unknown_class_hint("Expected a dot import path string: PromptSorce", ["PromptSource", "P3"])
    '; no class is called PromptSorce, nearest: PromptSource'
    """
    match = re.search(r"(?:Expected a dot import path string: |has no attribute '|No module named ')(\w+)", message)
    if match is None or "no class is called" in message:
        return ""
    return f"; no class is called {match[1]}, {nearest(match[1], known)}"
