"""Settings of packed rows: their length, their number per optimizer step, and the packing method."""

import math
from dataclasses import dataclass
from typing import Literal

from .best_fit import Packing, best_fit, in_order, one_per_row

PackingName = Literal["best_fit", "in_order", "one_per_row"]
PACKINGS: dict[PackingName, Packing] = {"best_fit": best_fit, "in_order": in_order, "one_per_row": one_per_row}


@dataclass(frozen=True)
class Rows:
    """Settings of the rows of a batch, each of which holds several examples, and of their number per optimizer step.

    Args:
        length: Tokens of a row; for an encoder-decoder model, of an encoder row.
        target_length: Tokens of a decoder row of an encoder-decoder model; null for a decoder-only model.
        per_step: Rows of one optimizer step, over all devices and accumulated batches.
        packing: ``best_fit`` packs documents so that little padding is left; ``in_order`` keeps their order, and a
            document that does not fit begins a new row; ``one_per_row`` pads each document to a row.
    """

    length: int = 2048
    target_length: int | None = None
    per_step: int = 256
    packing: PackingName = "best_fit"

    def __post_init__(self) -> None:
        require_positive("rows", length=self.length, target_length=self.target_length, per_step=self.per_step)
        packing_of(self.packing)


def packing_of(name: PackingName) -> Packing:
    """Return the function of a packing method; the names are those of ``PACKINGS``.

    Raises:
        ValueError: There is no method of this name.
    """
    if name not in PACKINGS:
        raise ValueError(f"rows.packing must be one of {', '.join(PACKINGS)}, got {name!r}")
    return PACKINGS[name]


def require_positive(group: str, **values: int | None) -> None:
    """Reject settings that are below 1; None is accepted.

    Args:
        group: Name of the group of settings, e.g. ``rows``, for the error.
        **values: The settings by name.

    Raises:
        ValueError: A value is below 1. The message has the setting's name and value.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{group}.{name} must be at least 1, got {value}")


def require_epochs(epochs: float | None) -> None:
    """Reject a number of epochs that is not positive and finite; None is accepted.

    Raises:
        ValueError: The message has the value.
    """
    if epochs is not None and not 0 < epochs < math.inf:
        raise ValueError(f"epochs must be a positive number, or null for trainer.max_steps, got {epochs}")
