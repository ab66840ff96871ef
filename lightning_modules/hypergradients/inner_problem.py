"""The inner loss with its parameters, and its first-order gradients at the current values of theta."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .parameter_vectors import Reduce, Vector, local
from .passes import frozen, resharded, summed_gradients, zeros_where_none

Loss = Callable[[], Tensor]
"""Returns a scalar loss at the current values of the parameters, on a batch that the caller has bound."""


class InnerProblem(NamedTuple):
    """The inner loss, with the parameters that it is differentiated by.

    Args:
        losses: Their sum is the inner loss. Called in order, they draw the same random numbers every time.
        theta: Distinct inner parameters.
        phi: Distinct outer parameters.
        reduce: Averages tensors over replicas.
    """

    losses: list[Loss]
    theta: list[Parameter]
    phi: list[Parameter]
    reduce: Reduce


def theta_gradient(problem: InnerProblem) -> Vector:
    """d inner / d theta of this replica's batch; zeros where theta is not used."""
    with resharded(problem.theta), frozen(problem.phi):
        _, slopes = summed_gradients("inner_loss", problem.losses, problem.theta)
        return zeros_where_none(slopes, problem.theta)


def phi_gradient(problem: InnerProblem) -> Vector:
    """d inner / d phi of this replica's batch, with theta frozen, which saves a third of the pass.

    Raises:
        ValueError: The inner loss does not use a parameter of phi.
    """
    with resharded(problem.theta), frozen(problem.theta):
        _, slopes = summed_gradients("inner_loss", problem.losses, problem.phi)
        require_used(slopes, problem.phi)
        return zeros_where_none(slopes, problem.phi)


@contextmanager
def restored(theta: Sequence[Parameter]) -> Iterator[Vector]:
    """Restore theta at the end of the block, also when a pass raises; yields a copy of its values (of this shard)."""
    backup = [local(parameter).clone() for parameter in theta]
    try:
        yield backup
    finally:
        # Restored from a copy: subtracting a step would add a rounding error to theta each time.
        set_theta(theta, backup)


def set_theta(theta: Sequence[Parameter], values: Vector) -> None:
    """theta <- values, of this shard."""
    for parameter, value in zip(theta, values, strict=True):
        local(parameter).copy_(value)


def move_theta(theta: Sequence[Parameter], origin: Vector, direction: Vector, step: float) -> None:
    """theta <- origin + step * direction."""
    for parameter, start, part in zip(theta, origin, direction, strict=True):
        torch.add(start, local(part), alpha=step, out=local(parameter))


def require_precise(problem: InnerProblem, need: str) -> None:
    """Reject weights in half precision, whose rounding exceeds a difference of two gradients.

    Args:
        problem: Theta and phi are checked.
        need: Start of the message: who needs float32 weights.

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
    """Reject outer parameters without a gradient.

    Raises:
        ValueError: With their positions and shapes.
    """
    unused = [describe("phi", index, phi[index]) for index, gradient in enumerate(gradients) if gradient is None]
    if unused:
        raise ValueError(
            f"inner_loss does not depend on {', '.join(unused)}: leave such parameters out of phi, or use them in it"
        )


def describe(name: str, index: int, parameter: Tensor) -> str:
    """A parameter's position and shape, for messages."""
    return f"{name}[{index}] of shape {tuple(parameter.shape)}"
