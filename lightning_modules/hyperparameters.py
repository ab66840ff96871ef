"""Constructor arguments as plain values and back, so that checkpoints hold no classes of crosstask.

``torch.load`` with ``weights_only=True``, Lightning's default, reads plain values only.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

Group = TypeVar("Group")

PLAIN = (str, int, float, bool, type(None))


def plain_values(value: Any) -> Any:
    """Return a value with dataclasses and mappings as dictionaries, and paths as strings.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Adam:
    ...     betas: tuple[float, float] = (0.9, 0.999)
    >>> plain_values({"optimizer": Adam(), "seed": 0})
    {'optimizer': {'betas': (0.9, 0.999)}, 'seed': 0}

    Raises:
        ValueError: The value is of another type.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_values(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(plain_values(item) for item in value)
    raise ValueError(
        f"an argument that checkpoints keep must consist of plain values or dataclasses, got {value!r} "
        f"({type(value).__name__})"
    )


def as_group(group: type[Group], value: Group | Mapping[str, Any]) -> Group:
    """Return a constructor's argument as the dataclass `group`; checkpoints hold it as a dictionary of its fields.

    >>> from crosstask.lightning_modules.generation.decoding import Decoding
    >>> as_group(Decoding, plain_values(Decoding(stop=("Q:",)))) == Decoding(stop=("Q:",))
    True
    """
    if not isinstance(value, Mapping):
        return value
    types = get_type_hints(group)
    nested = {
        name: as_group(types[name], item) if is_dataclass(types.get(name)) else item for name, item in value.items()
    }
    return group(**nested)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one dictionary with dots in the names.

    >>> flat({"optimizer": {"fused": True}, "seed": 0})
    {'optimizer.fused': True, 'seed': 0}
    """
    pairs: dict[str, Any] = {}
    for name, value in values.items():
        pairs |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return pairs
