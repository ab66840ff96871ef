"""Arithmetic on a model's parameters taken as one vector: a list with one tensor per parameter.

Where the parameters are sharded (FSDP2), the tensors are DTensors of the same placement: sums and products then
work on the local shards without communication, and only `dot` and `norm` talk to the other processes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor, Shard

Vector = list[Tensor]
"""One tensor per parameter, of the parameter's shape, dtype and sharding."""

Reduce = Callable[[list[Tensor]], list[Tensor]]
"""Average a list of tensors over replicas; every replica calls it with tensors of the same shapes."""


def unreduced(tensors: list[Tensor]) -> list[Tensor]:
    """The `Reduce` of one replica: nothing to average."""
    return tensors


def average_over_replicas(tensors: list[Tensor], *, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """The `Reduce` of several processes: one all-reduce per dtype and device, on a flat copy.

    Args:
        tensors: Of the same shapes on every process.
        group: The processes that see different data; all by default.
    """
    averaged = list(tensors)
    buckets: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for place, tensor in enumerate(tensors):
        buckets.setdefault((tensor.dtype, tensor.device), []).append(place)
    for places in buckets.values():
        flat = torch.cat([tensors[place].reshape(-1) for place in places])
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
        for place, piece in zip(places, flat.split([tensors[i].numel() for i in places]), strict=True):
            averaged[place] = piece.view_as(tensors[place])
    return averaged


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor, whose gradient the strategy reduces itself."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of the values, outside of any graph and sharing their memory."""
    values = tensor.detach()
    return values.to_local() if isinstance(values, DTensor) else values


def add(first: Vector, second: Vector, *, times: float = 1.0) -> Vector:
    """first + times * second."""
    return [torch.add(a, b, alpha=times) for a, b in zip(first, second, strict=True)]


def scaled(vector: Vector, factor: float) -> Vector:
    """factor * vector."""
    return [tensor * factor for tensor in vector]


def product(first: Vector, second: Vector) -> Vector:
    """Elementwise product: a diagonal matrix times a vector."""
    return [a * b for a, b in zip(first, second, strict=True)]


def dot(first: Vector, second: Vector) -> float:
    """Inner product over all parameters and all shards."""
    parts = [torch.dot(local(a).reshape(-1), local(b).reshape(-1)) for a, b in zip(first, second, strict=True)]
    return _total(first, parts)


def norm(vector: Vector) -> float:
    """Euclidean length over all parameters and all shards."""
    return math.sqrt(_total(vector, [torch.linalg.vector_norm(local(tensor)).double() ** 2 for tensor in vector]))


def cosine(first: Vector, second: Vector) -> float:
    """Of the angle between two vectors; 0 where one of them is 0."""
    return dot(first, second) / max(norm(first) * norm(second), 1e-300)


def relative_difference(first: Vector, second: Vector) -> float:
    """||first - second|| / ||first||; 0 for two zero vectors."""
    apart = norm(add(first, second, times=-1.0))
    return apart / norm(first) if apart else 0.0


def _total(vector: Sequence[Tensor], values: Sequence[Tensor]) -> float:
    """Sum of one value per tensor, summed over the processes among which that tensor is sharded."""
    sums: dict[Any, Tensor] = {}
    for tensor, value in zip(vector, values, strict=True):
        key = _shards(tensor)
        sums[key] = sums[key] + value.double().to(sums[key].device) if key in sums else value.double()
    for (mesh, dimensions), value in sums.items():
        for dimension in dimensions:
            dist.all_reduce(value, group=mesh.get_group(dimension))
    return sum(value.item() for value in sums.values())


def _shards(tensor: Tensor) -> tuple[Any, tuple[int, ...]]:
    """The device mesh, and those of its dimensions along which the tensor is cut."""
    if not isinstance(tensor, DTensor):
        return None, ()
    cut = tuple(i for i, placement in enumerate(tensor.placements) if isinstance(placement, Shard))
    return tensor.device_mesh, cut
