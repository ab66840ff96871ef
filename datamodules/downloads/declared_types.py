"""Values of a YAML mapping, compared with the types that a dataclass declares for them."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..messages import kind

NOUNS = {str: "text", bool: "true or false", int: "whole number", float: "number", NoneType: "null"}


def require_types(entry: Mapping[str, Any], declared: type, place: str) -> None:
    """Raise an error for a value of a YAML file that does not have the type of its field in a dataclass.

    Python would read ``files: 5`` into a dataclass without an error, and fail later at another place.

    Args:
        entry: Values by field; all of them are fields of the dataclass.
        declared: The dataclass. A list is accepted for a tuple, a mapping for a nested dataclass.
        place: File and entry, with which the error begins.

    Raises:
        ValueError: A value has another type; the message names the field, and the types of field and value.
    """
    hints = get_type_hints(declared)
    for name, value in entry.items():
        if not _has_type(value, hints[name]):
            raise ValueError(f"{place}: {name} should be {_type_name(hints[name])}, got {kind(value)}")


def _has_type(value: object, hint: Any) -> bool:
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return any(_has_type(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, list) and all(_has_type(each, inner[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(isinstance(k, str) and _has_type(v, inner[1]) for k, v in value.items())
    if is_dataclass(hint):
        return isinstance(value, dict)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def _type_name(hint: Any) -> str:
    """Return a type as a user writes its values: ``a mapping of (text)``, ``whole number or null``."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, inner))
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin is tuple:
        return f"a list of ({_type_name(inner[0])})"
    if origin is Mapping:
        return "a mapping" if inner[1] is Any else f"a mapping of ({_type_name(inner[1])})"
    return "a mapping" if is_dataclass(hint) else NOUNS[hint]
