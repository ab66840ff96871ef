"""Digest of an object's arguments and of its class's source code: equal on every process and machine."""

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
    """Raised for an object with an attribute that has no digest, e.g. an open file."""


def declared_state(value: Any) -> str | None:
    """Return a SHA-256 of an object's attributes and of its class's source file; None if an attribute has no digest.

    The tasks and evaluation prompts that a run stored are reused if the digest of its benchmark is unchanged.
    Attributes may be plain values, paths, patterns, classes, functions, collections, and objects of such attributes.
    Values of a ``cached_property`` are ignored. Other attributes that an object sets later change its digest, so
    compute the digest before the object is used.
    """
    try:
        return hashlib.sha256(json.dumps(_described(value)).encode()).hexdigest()
    except NoDeclaredState:
        return None


def _described(value: Any) -> Any:
    """Return an object as a JSON value."""
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
    """Return the fields of a dataclass, or an object's attributes without the values of cached properties."""
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
    """Return the SHA-256 of the file that defines a class or function."""
    try:
        path = inspect.getsourcefile(of)
    except TypeError:
        path = None
    if path is None or not Path(path).is_file():
        raise NoDeclaredState(repr(of))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
