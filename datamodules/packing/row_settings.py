"""Settings of rows: their length, their number per optimizer step, and their packing."""

import math
from dataclasses import dataclass
from typing import Literal

from .best_fit import Packing, best_fit, in_order, one_per_row

PackingName = Literal["best_fit", "in_order", "one_per_row"]
PACKINGS: dict[PackingName, Packing] = {"best_fit": best_fit, "in_order": in_order, "one_per_row": one_per_row}


@dataclass(frozen=True)
class Rows:
    """Packed rows of instruction tuning.

    Args:
        length: Columns of a row; for an encoder-decoder model, of its encoder's rows.
        target_length: Columns of a decoder row of an encoder-decoder model; null for a decoder-only model.
        per_step: Rows of one optimizer step, over all devices and accumulated batches.
        packing: best_fit fills rows, in_order opens a new row for a document that does not fit, one_per_row pads.
    """

    length: int = 2048
    target_length: int | None = None
    per_step: int = 256
    packing: PackingName = "best_fit"

    def __post_init__(self) -> None:
        require_positive("rows", length=self.length, target_length=self.target_length, per_step=self.per_step)
        packing_of(self.packing)


def packing_of(name: PackingName) -> Packing:
    """The packing of a name.

    Raises:
        ValueError: There is no packing of this name.
    """
    if name not in PACKINGS:
        raise ValueError(f"rows.packing must be one of {', '.join(PACKINGS)}, got {name!r}")
    return PACKINGS[name]


def require_positive(group: str, **values: int | None) -> None:
    """Reject arguments of a group that are below 1; None is accepted.

    Raises:
        ValueError: With the argument's name and value.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{group}.{name} must be at least 1, got {value}")


def require_epochs(epochs: float | None) -> None:
    """Reject a number of epochs that trains nothing; None is accepted.

    Raises:
        ValueError: With the value.
    """
    if epochs is not None and not 0 < epochs < math.inf:
        raise ValueError(f"epochs must be a positive number, or null for trainer.max_steps, got {epochs}")
