"""Changes of grouped arguments: ``rows={"length": 64}`` changes one field of ``rows`` and keeps the others."""

from dataclasses import is_dataclass, replace
from inspect import signature
from typing import Any, TypeVar

from crosstask.datamodules.base import BenchmarkDataModule

Data = TypeVar("Data", bound=BenchmarkDataModule)
GROUPS = ("rows", "mixture", "instances", "evaluation", "augmentation", "levels", "instructions")


def with_changes(arguments: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Return a datamodule's arguments overridden by others, field by field within groups."""
    changed = dict(arguments)
    for part in changes:
        for name, value in part.items():
            changed[name] = {**changed.get(name, {}), **value} if name in GROUPS else value
    return changed


def build(kind: type[Data], arguments: dict[str, Any], *changes: dict[str, Any]) -> Data:
    """Build a datamodule from its arguments with changes; fields that are not given have the constructor's defaults."""
    defaults = {name: parameter.default for name, parameter in signature(kind).parameters.items()}
    return kind(
        **{
            name: replace(defaults[name], **value) if is_dataclass(defaults[name]) and name in GROUPS else value
            for name, value in with_changes(arguments, *changes).items()
        }
    )
