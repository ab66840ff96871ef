"""Parts of error messages: described values, similar names, the first few of many items. Also paths with variables, and
commands to type.

Turns of conversations, which are called messages too, are in ``benchmarks/own_data/conversations.py``.
"""

import difflib
import os
import re
import reprlib
import shlex
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from .tracked_files import note

N_NAMED = 3
"""Items that a message lists; further ones are counted."""


def is_ours(error: BaseException) -> bool:
    """Return whether this package raised an error itself, so that its message is written for users."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(f"{__name__.partition('.')[0]}.")


def some(items: Sequence[str], total: int | None = None) -> str:
    """Return the first ``N_NAMED`` items, and how many more there are.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'

    Args:
        items: The items, or only the first of them.
        total: Number of all items; None if `items` has all.
    """
    total = len(items) if total is None else total
    more = f" and {total - N_NAMED} more" if total > N_NAMED else ""
    return (", ".join(items[:N_NAMED]) or "nothing") + more


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, and with the verb if `one` and `many` have one.

    Args:
        number: How many there are.
        one: Words after the number 1.
        many: Words after any other number; by default `one` with an s.

    >>> counted(1, "task"), counted(1200, "task"), counted(1, "task trains", "tasks train")
    ('1 task', '1,200 tasks', '1 task trains')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short_number(number: float) -> str:
    """Return a number in four digits, with a suffix for thousands, millions, billions or trillions.

    >>> short_number(2e8), short_number(29_975_511_040), short_number(1_024), short_number(500)
    ('200M', '29.98B', '1.024k', '500')
    """
    for suffix, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.4g}{suffix}"
    return f"{number:g}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase with the known names that are most similar to a misspelt one.

    >>> nearest("boolk", ["boolq", "rte"])
    'nearest: boolq'
    """
    close = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    return f"nearest: {', '.join(close)}" if close else "none has a similar name"


def kind(value: object) -> str:
    """Return the type of a value and its beginning, at most 60 characters.

    >>> kind(7), kind(["a", 7])
    ('int 7', "list ['a', 7]")
    """
    text = _SHORT.repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


_SHORT = reprlib.Repr()
"""Shortens any value: a YAML of a few lines can hold a list of a billion items."""
_SHORT.maxstring = _SHORT.maxother = 200


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path in which ``~`` and environment variables are replaced; used wherever a user names a path.

    Raises:
        ValueError: A variable is not set.
    """
    filled = os.path.expanduser(os.path.expandvars(os.fspath(path)))
    if unset := re.search(r"\$\{?(\w+)\}?", filled):
        name = unset.group(1)
        filling = ", which `crosstask download` fills" if name == "CROSSTASK_DATA" else ""
        raise ValueError(
            f"the environment variable {name} in {os.fspath(path)!r} is not set; "
            f"`export {name}=/path/to/the/data`{filling}, or write the path itself"
        )
    return Path(filled)


class MissingFiles(ValueError):
    """Files that a benchmark reader needs do not exist. A ``Suite`` reports such a task and continues."""


def existing_folder(folder: Path, what: str) -> Path:
    """Return a folder unchanged if it exists; otherwise raise an error that says where its path ends.

    Args:
        folder: The folder.
        what: Content that was expected there, for the message, e.g. "the task files".

    Raises:
        MissingFiles: It does not exist; the message names the deepest parent that does.
    """
    if not folder.is_dir():
        note(folder)
        deepest = next(parent for parent in folder.parents if parent.is_dir())
        raise MissingFiles(f"no folder {folder}, where {what} should be; the path exists as far as {deepest}")
    return folder


def unknown_class_hint(message: str, known: Iterable[str]) -> str:
    """Return the nearest class names, to append to a parser's error about an unknown class; empty for other errors.

    >>> unknown_class_hint("Expected a dot import path string: PromptSorce", ["PromptSource", "P3"])
    '; no class is called PromptSorce, nearest: PromptSource'
    >>> unknown_class_hint("No module named 'my_methods'", [])
    '; Python finds no module my_methods: add its folder to PYTHONPATH, e.g. PYTHONPATH=. for this folder'
    """
    if "no class is called" in message or "Python finds no module" in message:
        return ""
    if module := re.search(r"No module named '([\w.]+)", message):
        return f"; Python finds no module {module[1]}: add its folder to PYTHONPATH, e.g. PYTHONPATH=. for this folder"
    match = re.search(r"(?:Expected a dot import path string: |has no attribute ')(\w+)", message)
    return f"; no class is called {match[1]}, {nearest(match[1], known)}" if match is not None else ""


def command_line(*words: object) -> str:
    """Return a command of crosstask as a shell reads it.

    >>> command_line("report", Path("my runs"), "--stage", "test")
    "crosstask report 'my runs' --stage test"
    """
    return shlex.join(["crosstask", *map(str, words)])
