"""YAML of files: read without running code, and without a key twice, of which PyYAML silently keeps the last."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .data_files import read_text

DEEPEST = 500
"""Most levels of a file: libyaml ends the whole process in a file of a hundred thousand."""

_BRACKETS = re.compile(r"[\[\]{}]")
_INDENTED = re.compile(rf"^(?: |[-?] ){{{2 * DEEPEST}}}", re.MULTILINE)


class UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that rejects a key twice in a mapping; keys that are merged by ``<<`` may be overridden."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node."""
        seen: set[tuple[str, str]] = set()
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key in [key for key in keys if isinstance(key, yaml.ScalarNode) and key.value != "<<"]:
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} is there twice, and only one value would be read"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> Any:
    """The content of a UTF-8 file of YAML."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, place: str, loader: type[UniqueKeys] = UniqueKeys) -> Any:
    """The value of a YAML text.

    >>> parse_yaml("rows: {length: 64, length: 128}", "run.yaml")
    Traceback (most recent call last):
    ValueError: run.yaml, line 1: no valid YAML: the key 'length' is there twice, and only one value would be read

    Args:
        text: One YAML document.
        place: Its file, with which errors begin.
        loader: ``UniqueKeys``, or a loader with further tags.

    Raises:
        ValueError: It is not YAML, has a key twice in a mapping, or is nested deeper than Python reads.
    """
    if _may_be_deep(text):
        raise ValueError(f"{place}: no valid YAML: lists and mappings are nested more than {DEEPEST} times")
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ValueError(f"{place}{line}: no valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{place}: no valid YAML: {' '.join(str(error).split())}") from error


def _may_be_deep(text: str) -> bool:
    """Whether lists and mappings may be nested more than ``DEEPEST`` times, by open brackets and by indentation."""
    open_now = 0
    if sum(map(text.count, "[{")) > DEEPEST:
        for bracket in _BRACKETS.finditer(text):
            open_now += 1 if bracket.group() in "[{" else -1
            if open_now > DEEPEST:
                return True
    return _INDENTED.search(text) is not None
