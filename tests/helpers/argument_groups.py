"""Datamodules and recipes from groups of arguments: ``rows={"length": 64}`` changes one field and keeps the others."""

from dataclasses import is_dataclass, replace
from inspect import signature
from typing import Any, TypeVar

from crosstask.datamodules.base import BenchmarkDataModule

Data = TypeVar("Data", bound=BenchmarkDataModule)
GROUPS = ("rows", "mixture", "instances", "evaluation", "augmentation", "levels", "instructions")


def with_changes(arguments: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """A datamodule's arguments with others in their place, field by field in the groups."""
    changed = dict(arguments)
    for part in changes:
        for name, value in part.items():
            changed[name] = {**changed.get(name, {}), **value} if name in GROUPS else value
    return changed


def build(kind: type[Data], arguments: dict[str, Any], *changes: dict[str, Any]) -> Data:
    """A datamodule from its arguments with changes; the other fields of a group are the constructor's."""
    defaults = {name: parameter.default for name, parameter in signature(kind).parameters.items()}
    return kind(
        **{
            name: replace(defaults[name], **value) if is_dataclass(defaults[name]) and name in GROUPS else value
            for name, value in with_changes(arguments, *changes).items()
        }
    )
