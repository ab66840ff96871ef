"""Reader of YAML files. It runs no code, and rejects a key twice in a mapping, of which PyYAML keeps the last."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .data_files import read_text

DEEPEST = 500
"""Maximum number of levels of nesting; libyaml crashes the process on a file nested a hundred thousand times."""

MOST_VALUES = 10_000_000
"""Maximum number of values of a file with aliases written out: nine lists of nine aliases each are 10^9 values."""

_BRACKETS = re.compile(r"[\[\]{}]")
_INDENTED = re.compile(rf"^(?: |[-?] ){{{2 * DEEPEST}}}", re.MULTILINE)


class UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML loader that rejects a key twice in a mapping; keys merged by ``<<`` may be overridden."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping of a YAML node."""
        seen: set[tuple[str, str]] = set()
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key in [key for key in keys if isinstance(key, yaml.ScalarNode) and key.value != "<<"]:
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} occurs twice, and only one value would be read"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> Any:
    """Return the content of a UTF-8 YAML file.

    Raises:
        ValueError: It is not YAML, has a key twice in a mapping, or is nested too deeply.
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, place: str, loader: type[UniqueKeys] = UniqueKeys) -> Any:
    """Return the value of a YAML text.

    >>> parse_yaml("rows: {length: 64, length: 128}", "run.yaml")
    Traceback (most recent call last):
    ValueError: run.yaml, line 1: no valid YAML: the key 'length' occurs twice, and only one value would be read

    Args:
        text: One YAML document.
        place: File of the text, with which errors begin.
        loader: ``UniqueKeys``, or a loader with further tags.

    Raises:
        ValueError: The text is not YAML, has a key twice in a mapping, or is nested too deeply.
    """
    if _may_be_deep(text):
        raise ValueError(f"{place}: no valid YAML: lists and mappings are nested more than {DEEPEST} times")
    try:
        value = yaml.load(text, Loader=loader)
        if "*" in text and _values(value, {}) > MOST_VALUES:
            raise ValueError(f"{place}: aliases (*name) repeat its lists to more than {MOST_VALUES:,} values")
        return value
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ValueError(f"{place}{line}: no valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{place}: no valid YAML: {' '.join(str(error).split())}") from error


def _values(value: Any, known: dict[int, int]) -> int:
    """Return the number of values in a list or mapping; one that an alias repeats counts as often as it is there.

    Raises:
        YAMLError: A list or mapping contains itself.
    """
    if not isinstance(value, list | dict):
        return 1
    if (number := known.get(id(value))) is not None:
        if number == 0:
            raise yaml.YAMLError("an alias (*name) stands within what it names, which has no end")
        return number
    known[id(value)] = 0  # until it is counted
    known[id(value)] = number = 1 + sum(
        _values(part, known) for part in (value if isinstance(value, list) else value.values())
    )
    return number


def _may_be_deep(text: str) -> bool:
    """Return whether lists and mappings may be nested more than ``DEEPEST`` times, by brackets and by indentation."""
    open_now = 0
    if sum(map(text.count, "[{")) > DEEPEST:
        for bracket in _BRACKETS.finditer(text):
            open_now += 1 if bracket.group() in "[{" else -1
            if open_now > DEEPEST:
                return True
    return _INDENTED.search(text) is not None
