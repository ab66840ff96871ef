"""The hypergradient by backpropagation through every inner step; the graphs of all steps are in memory at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from .parameter_vectors import Vector
from .plain_gradients import scalar, zeros_where_none


def unrolled(
    inner_steps: Sequence[Callable[[Vector], Vector]],
    outer_loss: Callable[[Vector], Tensor],
    theta: Sequence[Tensor],
    phi: Sequence[Parameter],
) -> list[Tensor]:
    """Return the exact gradient of the outer loss with respect to phi through all inner steps.

    It is for small problems and tests; the implicit methods approximate it. Inner steps are functions of theta's
    values; ``torch.func.functional_call`` turns modules into such functions.

    Args:
        inner_steps: Each maps theta's values to the next values, differentiably in theta and phi.
        outer_loss: Returns the scalar outer loss at the last values of theta.
        theta: Initial values; they are not modified.
        phi: Outer parameters.

    Raises:
        ValueError: Neither a step nor the outer loss uses a parameter of phi, or the outer loss is not a scalar.
    """
    values = [tensor.detach().clone().requires_grad_() for tensor in theta]
    for step in inner_steps:
        values = step(values)
    loss = scalar("outer_loss", outer_loss(values))
    gradients = torch.autograd.grad(loss, phi, allow_unused=True) if loss.requires_grad else [None] * len(phi)
    unused = [index for index, gradient in enumerate(gradients) if gradient is None]
    if unused:
        raise ValueError(f"no inner step and no outer loss depends on phi at {unused}")
    return zeros_where_none(gradients, phi)
