"""A digest of an object as its arguments made it: equal for equal arguments, on every process and machine."""

import dataclasses
import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType
from typing import Any


class NoDeclaredState(Exception):
    """An object has a part that cannot be described, e.g. an open file."""


def declared_state(value: Any) -> str | None:
    """A digest of an object's attributes and of the source of its class; None if a part cannot be described.

    What a ``cached_property`` keeps does not count. Other attributes that an object fills later do: take the digest
    before the object is used.
    """
    try:
        return hashlib.sha256(json.dumps(_described(value)).encode()).hexdigest()
    except NoDeclaredState:
        return None


def _described(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return os.path.expandvars(value)  # a path may begin with a variable that names another folder later
        case Path():
            return ["path", os.path.expandvars(value)]
        case re.Pattern():
            return ["pattern", value.pattern, value.flags]
        case type() | FunctionType():
            return ["source", f"{value.__module__}.{value.__qualname__}", _source(value)]
        case Mapping():
            return ["mapping", [[_described(key), _described(of)] for key, of in value.items()]]
        case AbstractSet():
            return ["set", sorted(json.dumps(_described(each)) for each in value)]
        case list() | tuple():
            return [_described(each) for each in value]
    return [*_described(type(value)), _described(_attributes(value))]


def _attributes(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    try:
        attributes = vars(value)
    except TypeError:
        raise NoDeclaredState(repr(value)) from None
    kept = {name for of in type(value).__mro__ for name, part in vars(of).items() if isinstance(part, cached_property)}
    return {name: part for name, part in attributes.items() if name not in kept}


@cache
def _source(of: Any) -> str:
    """A digest of the file that defines a class or function."""
    try:
        path = inspect.getsourcefile(of)
    except TypeError:
        path = None
    if path is None or not Path(path).is_file():
        raise NoDeclaredState(repr(of))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
