"""Fields of records that are read back from files, checked for type and range, so that an edited file is rejected."""

import math
from collections.abc import Mapping
from typing import Any

from .messages import kind


def text_field(record: Mapping[str, Any], name: str) -> str:
    """Return the text in a field of a record.

    Raises:
        ValueError: The field is missing, or is not a text.
    """
    if not isinstance(value := _field(record, name), str):
        raise ValueError(f"{name} should be a text, got {kind(value)}")
    return value


def whole_field(record: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return the whole number of at least 0 in a field of a record; True and False are rejected.

    Args:
        record: The record.
        name: Name of the field.
        default: Number to return if the field is missing; None if it must exist.

    Raises:
        ValueError: The field is missing and has no default, or holds no such number.
    """
    value = _field(record, name) if default is None or name in record else default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{name} should be a whole number of at least 0, got {kind(value)}")
    return value


def number_field(record: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """Return the finite number from `low` to `high` in a field of a record; True and False are rejected.

    >>> number_field({"rouge_l": 1e308}, "rouge_l", 0, 1)
    Traceback (most recent call last):
    ValueError: rouge_l should be a number from 0 to 1, got float 1e+308

    Raises:
        ValueError: The field is missing, or holds no such number.
    """
    value = _field(record, name)
    # Python's JSON reader accepts NaN, and whole numbers that are too large for a float.
    valid = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not valid or not math.isfinite(value):
        raise ValueError(f"{name} should be a number from {low:g} to {high:g}, got {kind(value)}")
    return float(value)


def _field(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise ValueError(f"{name} is missing")
    return record[name]
