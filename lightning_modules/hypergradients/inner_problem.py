"""The inner loss with its parameters, theta (inner) and phi (outer), and its first-order gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .parameter_vectors import Reduce, Vector, local
from .plain_gradients import frozen, resharded, summed_gradients, zeros_where_none

Loss = Callable[[], Tensor]
"""Returns a scalar loss at the current values of the parameters, on a batch that the caller has bound."""


class InnerProblem(NamedTuple):
    """The inner loss on a batch, with the inner and outer parameters by which it is differentiated.

    Args:
        losses: Functions whose sum is the inner loss. Called in this order, they draw the same random numbers every
            time.
        theta: Inner parameters, without duplicates.
        phi: Outer parameters, without duplicates.
        reduce: Averages a list of tensors over replicas.
    """

    losses: list[Loss]
    theta: list[Parameter]
    phi: list[Parameter]
    reduce: Reduce


def theta_gradient(problem: InnerProblem) -> Vector:
    """Return the gradient of the inner loss with respect to theta, the inner parameters, on this replica's batch.

    It is zero for parameters that the loss does not use.
    """
    with resharded(problem.theta), frozen(problem.phi):
        _, slopes = summed_gradients("inner_loss", problem.losses, problem.theta)
        return zeros_where_none(slopes, problem.theta)


def phi_gradient(problem: InnerProblem) -> Vector:
    """Return the gradient of the inner loss with respect to phi, the outer parameters, on this replica's batch.

    Theta is frozen in the pass, which saves a third of its cost.

    Raises:
        ValueError: The inner loss does not use a parameter of phi.
    """
    with resharded(problem.theta), frozen(problem.theta):
        _, slopes = summed_gradients("inner_loss", problem.losses, problem.phi)
        require_used(slopes, problem.phi)
        return zeros_where_none(slopes, problem.phi)


@contextmanager
def restored(theta: Sequence[Parameter]) -> Iterator[Vector]:
    """Restore theta's values at the end of the block, also after an exception; yields a copy of them.

    Of sharded parameters, the copy holds this process's shards.
    """
    backup = [local(parameter).clone() for parameter in theta]
    try:
        yield backup
    finally:
        # Restored from a copy: subtracting a step would add a rounding error to theta each time.
        set_theta(theta, backup)


def set_theta(theta: Sequence[Parameter], values: Vector) -> None:
    """Set theta to `values` (this process's shards), in place."""
    for parameter, value in zip(theta, values, strict=True):
        local(parameter).copy_(value)


def move_theta(theta: Sequence[Parameter], origin: Vector, direction: Vector, step: float) -> None:
    """Set theta to origin + step * direction, in place."""
    for parameter, start, part in zip(theta, origin, direction, strict=True):
        torch.add(start, local(part), alpha=step, out=local(parameter))


def require_precise(problem: InnerProblem, need: str) -> None:
    """Reject weights in half precision, whose rounding is larger than the difference of two gradients.

    Args:
        problem: Theta and phi are checked.
        need: Start of the error message, such as "finite differences need".

    Raises:
        ValueError: A parameter has low precision.
    """
    for name, parameters in (("theta", problem.theta), ("phi", problem.phi)):
        for index, parameter in enumerate(parameters):
            if parameter.dtype in (torch.bfloat16, torch.float16):
                raise ValueError(
                    f"{need} float32 weights, and {describe(name, index, parameter)} is "
                    f"{parameter.dtype}: keep the weights in float32 (precision bf16-mixed does), or use exact"
                )


def require_used(gradients: Sequence[Tensor | None], phi: Sequence[Parameter]) -> None:
    """Reject outer parameters whose gradient is None, because the inner loss does not use them.

    Raises:
        ValueError: Names their positions in phi and their shapes.
    """
    unused = [describe("phi", index, phi[index]) for index, gradient in enumerate(gradients) if gradient is None]
    if unused:
        raise ValueError(
            f"inner_loss does not depend on {', '.join(unused)}: leave such parameters out of phi, or use them in it"
        )


def describe(name: str, index: int, parameter: Tensor) -> str:
    """Return a parameter's position and shape, for messages."""
    return f"{name}[{index}] of shape {tuple(parameter.shape)}"
