"""Recipes that make a column of a row from its other columns, by steps that a YAML file declares.

::

    columns:
      title: {from: passage, before: " -- "}              the text before the first " -- "
      text: {from: [answer.en, en], replace: [["_", " "]]}  the first path that the row has; regular expressions
      concepts: {from: concepts, join: ", "}              a list as one text
      targets: {from: label, named: {"0": "no", "1": "yes"}}    a number as the text that it stands for

Steps are done in the order in which they are written. ``data/flan_datasets.yaml`` has the recipes of FLAN's datasets.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from ...messages import kind, nearest
from .row import Row

Recipe = Mapping[str, Any]
"""A path in the row, or alternative paths, under ``from``; then the argument of each step under the step's name."""

MISSING = object()
"""Returned for a path that a row does not have."""


def value_at(row: Row, path: str) -> Any:
    """Return the value at a path like ``answers.text.0`` or ``choices.*.text``; `MISSING` if there is none."""
    return _value_at(row.fields, path.split("."))


def recipe_value(row: Row, recipe: Recipe, original: Row | None = None) -> Any:
    """Make the value of a new column from a row, by a recipe: the path of an old value, and steps that change it.

    The value is `MISSING` if the row has none of the recipe's paths.

    >>> row = Row({"passage": "House tax -- A levy.", "choices": [{"text": "a"}, {"text": "b"}]}, "rows.jsonl, line 1")
    >>> recipe_value(row, {"from": "passage", "before": " -- "})
    'House tax'
    >>> recipe_value(row, {"from": "choices.*.text", "numbered": 10})
    '1. a\\n2. b'

    Args:
        row: The row, whose columns patterns and errors read.
        recipe: Paths and steps.
        original: The row before other recipes added columns, if paths refer to that one; None if they refer to `row`.
    """
    paths = [recipe["from"]] if isinstance(recipe["from"], str) else recipe["from"]
    value = next((value for path in paths if (value := value_at(original or row, path)) is not MISSING), MISSING)
    if value is MISSING:
        return recipe.get("otherwise", MISSING)
    for step, argument in recipe.items():
        if step in ("from", "otherwise", "codes"):
            continue
        if step not in STEPS:
            raise row.error(f"no step {step!r} to make a column; {nearest(step, STEPS)}; there are {', '.join(STEPS)}")
        value = STEPS[step](value, argument, row)
    return value


def with_columns(row: Row, columns: Mapping[str, Recipe]) -> Row:
    """Return a row with additional columns, each made from other columns by a recipe.

    A column that the row already has is kept, unless its recipe reads it.

    Args:
        row: The row.
        columns: Recipe of each column to add: the path of an old value, and steps that change it.

    >>> with_columns(Row({"label": 1}, ""), {"answer": {"from": "label", "named": {"1": "yes"}}}).fields
    {'label': 1, 'answer': 'yes'}
    """
    fields = dict(row.fields)
    for column, recipe in columns.items():
        paths = [recipe["from"]] if isinstance(recipe["from"], str) else recipe["from"]
        if column not in row.fields or column in paths:
            value = recipe_value(row, recipe)
            if value is not MISSING:
                fields[column] = value
    # Patterns read columns that other recipes made, so they come last.
    made_row = Row(fields, row.location)
    for column, recipe in columns.items():
        if "pattern" in recipe and column in fields and column not in row.fields:
            fields[column] = recipe_value(made_row, recipe)
    return Row(fields, row.location)


def _value_at(value: Any, steps: list[str]) -> Any:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(value, Mapping) and step in value:
        return _value_at(value[step], rest)
    if step == "*" and isinstance(value, list):
        inner = [_value_at(part, rest) for part in value]
        return MISSING if MISSING in inner else inner
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return _value_at(value[int(step)], rest)
    return MISSING


def _text(value: Any, row: Row) -> str:
    if not isinstance(value, str):
        raise row.error(f"expected text to make a column from, got {kind(value)}")
    return value


def _texts(value: Any, row: Row) -> list[str]:
    """Return the texts of a list or of a mapping's values; a triple becomes one text, joined by bars."""
    parts = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(parts, list | tuple):
        raise row.error(f"expected a list of texts to make a column from, got {kind(value)}")
    return [" | ".join(map(str, part)) if isinstance(part, list | tuple) else str(part) for part in parts]


def _replace(value: Any, pairs: list[list[str]], row: Row) -> Any:
    if isinstance(value, list):
        return [_replace(part, pairs, row) for part in value]
    text = _text(value, row)
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text


def _before(value: Any, separator: str, row: Row) -> str:
    return _text(value, row).split(separator, 1)[0]


def _after(value: Any, separator: str, row: Row) -> str:
    text = _text(value, row)
    return text.split(separator, 1)[1] if separator in text else text


def _until(value: Any, column: str, row: Row) -> str:
    return _text(value, row)[: row.integer(column)]


def _beyond(value: Any, columns: list[str], row: Row) -> str:
    place, passed = columns
    return _text(value, row)[row.integer(place) + len(row.text(passed)) :]


def _join(value: Any, separator: str, row: Row) -> str:
    return value if isinstance(value, str) else separator.join(_texts(value, row))  # a text is joined already


def _numbered(value: Any, most: int, row: Row) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(_texts(value, row)[:most], start=1))


def _nonempty(value: Any, wanted: bool, row: Row) -> Any:
    """Return a list without its nulls and empty texts."""
    return [part for part in value if part is not None and part != ""] if wanted and isinstance(value, list) else value


def _rounded(value: Any, digits: int, row: Row) -> str:
    try:
        return f"{float(value):.{digits}f}"
    except (TypeError, ValueError) as error:
        raise row.error(f"expected a number to make a column from, got {kind(value)}") from error


def _named(value: Any, names: Mapping[str, str], row: Row) -> str:
    """Return the name of a value, e.g. of a label's number."""
    if str(value) not in names:
        raise row.error(f"expected one of {', '.join(names)} to make a column from, got {kind(value)}")
    return names[str(value)]


def _pattern(value: Any, pattern: str, row: Row) -> Any:
    """Return a pattern filled with the value as ``{value}`` and the row's columns; a list is filled item by item."""
    if isinstance(value, list):
        return [_pattern(part, pattern, row) for part in value]
    fields = {**row.fields, "value": value}
    return re.sub(r"\{(\w+)\}", lambda match: str(fields.get(match[1], match[0])), pattern)


STEPS: Mapping[str, Callable[[Any, Any, Row], Any]] = {
    "after": _after,
    "before": _before,
    "beyond": _beyond,
    "item": lambda value, place, row: _texts(value, row)[place],
    "join": _join,
    "lower": lambda value, _, row: _text(value, row).lower(),
    "nonempty": _nonempty,
    "numbered": _numbered,
    "pattern": _pattern,
    "replace": _replace,
    "round": _rounded,
    "named": _named,
    "strip": lambda value, _, row: _text(value, row).strip(),
    "until": _until,
}
"""Function of (value, argument, row) for each step."""
