"""Errors of options as one sentence: the class that rejects an option, the reason, and the nearest option.

jsonargparse reports the errors of all types that an option may have, each inside the error of a larger option.
"""

import inspect
import re
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any, cast, get_args, get_type_hints

from ...datamodules.messages import some

PROBLEM = re.compile(r"^( *)- Problem with given class_path '([\w.]+)':\n((?:\1 +.*(?:\n|$))+)", re.MULTILINE)
UNKNOWN = re.compile(r"(?:unrecognized arguments: --|(?:Group '([\w.]+)' does not accept o|O)ption ')([\w.]+)")
HINT = re.compile("no class is called|Python finds no module")
UNKNOWN_OF_TRAINER = re.compile(r"(?:unrecognized arguments: --|does not accept option ')trainer\.(\w+)")

MOST_LISTED = 20
"""Options of a class or group that are all listed in an error; of more, the first ones are."""


def option_error(message: str) -> str:
    r"""Return a parser's error about an option, shortened to the class that rejects it, with the nearest option.

    An error about a class that does not exist is returned unchanged, and so is one about another option of a command.

    >>> where = "- Problem with given class_path 'crosstask.datamodules.benchmarks.P3':"
    >>> option_error(f"{where}\n    Option 'sed' is not accepted\n- Expected a <class 'str'>")
    "P3 has no option 'sed', nearest: seed"
    """
    if unknown := UNKNOWN_OF_TRAINER.search(message):
        from lightning.pytorch import Trainer

        return f"the trainer has no option {unknown[1]!r}, {similar_options(unknown[1], option_names(Trainer))}"
    if (problem := _innermost(re.sub(r"\n\s*\n", "\n", message))) is None or HINT.search(message):
        return message
    name, reason = problem[2].rpartition(".")[2], " ".join(problem[3].split())
    if (unknown := UNKNOWN.match(reason)) is None:
        return f"{name}: {reason}"
    option = ".".join(filter(None, unknown.groups()))
    return f"{name} has no option {option!r}, {similar_options(option, option_names(resolve_name(problem[2])))}"


def _innermost(message: str) -> re.Match[str] | None:
    """The error of the class inside all others; None if the message is about no class."""
    problem = PROBLEM.search(message)
    return problem and (_innermost(problem[3]) or problem)


def similar_options(option: str, known: Collection[str]) -> str:
    """Return a phrase with the options that a misspelt one may stand for; with all of its group if none is similar.

    >>> known = ["seed", "rows", "rows.length", "rows.per_step"]
    >>> [similar_options(option, known) for option in ("rows.lenght", "rows.batch", "rws.length")]
    ['nearest: rows.length', 'there are rows.length, rows.per_step', 'nearest: rows']
    """
    group = option.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == group]
    if group and not siblings:
        return similar_options(group, known)
    leaf_of = {name.rpartition(".")[2]: name for name in siblings}
    close = get_close_matches(option.rpartition(".")[2], leaf_of, n=2)
    if close:
        return f"nearest: {', '.join(leaf_of[leaf] for leaf in close)}"
    return f"there are {', '.join(siblings) if len(siblings) <= MOST_LISTED else some(siblings)}"


def option_names(described: type) -> list[str]:
    """Return the names of a class's arguments and of the fields of those that are dataclasses, e.g. ``rows.length``."""
    return list(_names(described))


def _names(described: type) -> Iterator[str]:
    types: dict[str, Any] = get_type_hints(cast(Any, described).__init__)
    for name in inspect.signature(described).parameters:
        yield name
        for group in (types.get(name), *get_args(types.get(name))):
            if is_dataclass(group):
                yield from (f"{name}.{field.name}" for field in fields(group))
