"""Search for weights with NaN or infinity; each process examines its own shards."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from .messages import some


def names_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of tensors with NaN or infinity in this process's shards; there is one transfer per device.

    >>> names_not_finite([("good", torch.ones(2)), ("bad", torch.tensor([1.0, torch.inf])), ("ids", torch.arange(3))])
    ['bad']
    """
    names: dict[torch.device, list[str]] = {}
    flags: dict[torch.device, list[Tensor]] = {}
    for name, tensor in tensors:
        values = local_values(tensor)
        if values.is_floating_point() and values.numel() and not values.is_meta:
            names.setdefault(values.device, []).append(name)
            flags.setdefault(values.device, []).append(torch.isfinite(values).all())
    return [
        name
        for device, checked in names.items()
        for name, finite in zip(checked, torch.stack(flags[device]).tolist(), strict=True)
        if not finite
    ]


def require_finite_weights(tensors: Iterable[tuple[str, Tensor]], where: object) -> None:
    """Reject weights with values that are not finite.

    Args:
        tensors: Names and values.
        where: Model, folder or checkpoint of the weights, for the message.

    Raises:
        ValueError: A value is NaN or infinite; the message names the first tensors.
    """
    if names := names_not_finite(tensors):
        raise ValueError(not_finite(where, names))


def not_finite(where: object, names: Sequence[str]) -> str:
    """Return the error message for weights that are not finite."""
    return (
        f"{where} has values that are not finite (NaN or infinity) in {len(names)} of its tensors: {some(names)}. "
        "Nothing that is computed with them has a meaning: take an earlier checkpoint"
    )


def local_values(tensor: Tensor) -> Tensor:
    """Return the values of a tensor that this process holds, its shard of a sharded one, as a tensor without gradient.

    A DTensor holds a shard. ZeRO-3 keeps the shard, flattened, in ``ds_tensor``; its padding is left out.
    """
    part: Any = tensor
    if hasattr(tensor, "ds_tensor"):
        shard: Tensor = part.ds_tensor.detach()
        begin = dist.get_rank(part.ds_process_group) * shard.numel()
        return shard.view(-1)[: max(part.ds_numel - begin, 0)]
    values = part.detach()
    return values.to_local() if isinstance(values, DTensor) else values
