"""Arithmetic on vectors in parameter space, stored as lists with one tensor per parameter.

For sharded parameters (FSDP2) the tensors are DTensors of the same placement. Sums and products work on the local
shards; only `dot` and `norm` communicate.
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
"""Averages a list of tensors over replicas; every replica must call it with tensors of the same shapes."""


def unreduced(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors unchanged: the `Reduce` of a single replica."""
    return tensors


def average_over_replicas(tensors: list[Tensor], *, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Return the means of the tensors over processes, with one all-reduce per dtype and device.

    Args:
        tensors: Tensors of the same shapes on every process.
        group: Processes that train on different data; all processes by default.
    """
    averaged = list(tensors)
    buckets: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(tensors):
        buckets.setdefault((tensor.dtype, tensor.device), []).append(index)
    for indices in buckets.values():
        flat = torch.cat([tensors[index].reshape(-1) for index in indices])
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
        for index, piece in zip(indices, flat.split([tensors[i].numel() for i in indices]), strict=True):
            averaged[index] = piece.view_as(tensors[index])
    return averaged


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether the tensor is a DTensor, whose gradient FSDP2 averages itself."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, detached; it shares the tensor's memory."""
    values = tensor.detach()
    return values.to_local() if isinstance(values, DTensor) else values


def add(first: Vector, second: Vector, *, times: float = 1.0) -> Vector:
    """Return first + times * second."""
    return [torch.add(a, b, alpha=times) for a, b in zip(first, second, strict=True)]


def scaled(vector: Vector, factor: float) -> Vector:
    """Return factor * vector."""
    return [tensor * factor for tensor in vector]


def product(first: Vector, second: Vector) -> Vector:
    """Return the elementwise product, i.e. a diagonal matrix times a vector."""
    return [a * b for a, b in zip(first, second, strict=True)]


def dot(first: Vector, second: Vector) -> float:
    """Return the inner product over all parameters and all shards."""
    parts = [torch.dot(local(a).reshape(-1), local(b).reshape(-1)) for a, b in zip(first, second, strict=True)]
    return _total(first, parts)


def norm(vector: Vector) -> float:
    """Return the Euclidean norm over all parameters and all shards."""
    return math.sqrt(_total(vector, [torch.linalg.vector_norm(local(tensor)).double() ** 2 for tensor in vector]))


def cosine(first: Vector, second: Vector) -> float:
    """Return the cosine of the angle between two vectors; 0 if one of them is 0."""
    return dot(first, second) / max(norm(first) * norm(second), 1e-300)


def relative_difference(first: Vector, second: Vector) -> float:
    """Return ||first - second|| / ||first||; 0 for two zero vectors."""
    difference = norm(add(first, second, times=-1.0))
    return difference / norm(first) if difference else 0.0


def _total(vector: Sequence[Tensor], values: Sequence[Tensor]) -> float:
    """Return the sum of one value per tensor, each first summed over the processes that hold shards of the tensor."""
    sums: dict[Any, Tensor] = {}
    for tensor, value in zip(vector, values, strict=True):
        key = _shards(tensor)
        sums[key] = sums[key] + value.double().to(sums[key].device) if key in sums else value.double()
    for (mesh, dimensions), value in sums.items():
        for dimension in dimensions:
            dist.all_reduce(value, group=mesh.get_group(dimension))
    return sum(value.item() for value in sums.values())


def _shards(tensor: Tensor) -> tuple[Any, tuple[int, ...]]:
    """Return the device mesh, and those of its dimensions that the tensor is sharded along."""
    if not isinstance(tensor, DTensor):
        return None, ()
    dimensions = tuple(i for i, placement in enumerate(tensor.placements) if isinstance(placement, Shard))
    return tensor.device_mesh, dimensions
