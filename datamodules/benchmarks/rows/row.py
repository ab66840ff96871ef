"""A record of a data file with type-checked access to its fields; errors name the file and the row."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...messages import MissingFiles, kind, nearest, some


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a data file, whose fields are read with a check of their type; errors name file and row.

    Args:
        fields: Values by field name, as parsed from JSON or a table.
        location: File and row, which begin every error, e.g. ``"data/rte.jsonl, line 7"``.
    """

    fields: Mapping[str, Any]
    location: str

    def value(self, key: str) -> Any:
        """Return the value of a field.

        Raises:
            ValueError: The field is missing; the error lists the nearest names.
        """
        if not isinstance(self.fields, Mapping):
            raise self.error(f"expected an object with {key!r}, got {kind(self.fields)}")
        if key not in self.fields:
            raise self.error(f"no {key!r}; {nearest(key, self.fields)}; there are {some(list(self.fields))}")
        return self.fields[key]

    def text(self, key: str, default: str | None = None) -> str:
        """Return the text in a field; `default` if the field is missing and a default is given.

        Args:
            key: Name of the field.
            default: Text to return if the field is missing; None if it must exist.

        Raises:
            ValueError: The field is missing, or does not hold a text.
        """
        if default is not None and key not in self.fields:
            return default
        value = self.value(key)
        if not isinstance(value, str):
            raise self.error(f"{key!r} should be text, got {kind(value)}")
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return the texts in a field that holds a list of texts, or one text; `default` if the field is missing.

        Args:
            key: Name of the field.
            default: Texts to return if the field is missing; None if it must exist.

        Raises:
            ValueError: The field is missing without a default, or holds anything else.
        """
        if default is not None and key not in self.fields:
            return default
        value = self.value(key)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise self.error(f"{key!r} should be text or a list of texts, got {kind(value)}")
        return tuple(texts)

    def children(self, key: str) -> "list[Row]":
        """Return the objects in a field that holds a list of objects, each as a row whose errors name its index.

        Raises:
            ValueError: The field is missing, or does not hold a list.
        """
        value = self.value(key)
        if not isinstance(value, list | tuple):
            raise self.error(f"{key!r} should be a list of objects, got {kind(value)}")
        return [Row(item, f"{self.location}, {key} {place}") for place, item in enumerate(value)]

    def child(self, key: str) -> "Row":
        """Return the object in a field as a row, whose location ends with the name of the field."""
        return Row(self.value(key), f"{self.location}, {key}")

    def integer(self, key: str) -> int:
        """Return the whole number in a field, also if it is written as text, as in tables.

        Raises:
            ValueError: The field is missing, or does not hold a whole number.
        """
        value = self.value(key)
        if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{key!r} should be a whole number, got {kind(value)}")
        return value

    def error(self, message: str) -> ValueError:
        """Return a ValueError whose message begins with the row's location."""
        return ValueError(f"{self.location}: {message}")


def holds_null(value: Any) -> bool:
    """Return whether a value is null or contains a null; NaN counts, since tables have it for missing values.

    >>> [holds_null(value) for value in (None, float("nan"), ["a", None], {"a": {"b": None}}, "None", "", 0)]
    [True, True, True, True, False, False, False]
    """
    if isinstance(value, list | tuple):
        return any(map(holds_null, value))
    if isinstance(value, Mapping):
        return any(map(holds_null, value.values()))
    return value is None or (isinstance(value, float) and math.isnan(value))


@contextmanager
def other_format(row: Row) -> Iterator[None]:
    """Context manager that turns a TypeError, KeyError and the like into a ValueError with the row's location.

    It surrounds code that reads the fields of a published dataset without checking each type.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise row.error(f"a value does not have this dataset's format: {problem}") from error


@contextmanager
def error_prefix(benchmark: str, task: str) -> Iterator[None]:
    """Context manager that begins the message of a ValueError with benchmark and task, and keeps ``MissingFiles``."""
    try:
        yield
    except ValueError as error:
        error_type = MissingFiles if isinstance(error, MissingFiles) else ValueError
        raise error_type(f"{benchmark}, task {task}: {error}") from error
