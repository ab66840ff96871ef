"""Curvature backends: products of second derivatives of the inner loss with a vector.

``finite_difference`` takes first-order gradients at two nearby points. It works with fused attention kernels, DDP and
FSDP2, where double backward is impossible. ``exact`` differentiates twice. It needs one device, attention without fused
kernels, and more than twice the memory.
"""

# With L the inner loss and p a vector shaped like theta:
#   hessian_product(p) = d2L/dtheta2 p          shaped like theta
#   mixed_product(p)   = d2L/(dphi dtheta) p    shaped like phi

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from .inner_problem import (
    InnerProblem,
    describe,
    move_theta,
    phi_gradient,
    require_precise,
    require_used,
    restored,
    theta_gradient,
)
from .parameter_vectors import Vector, is_dtensor, norm, relative_difference
from .plain_gradients import averaged, gradients, scalar, zeros_where_none

TOLERABLE = 0.1
"""Largest relative error of a finite difference that passes without a warning."""


class Curvature(NamedTuple):
    """Functions that multiply second derivatives of the inner loss by a vector p shaped like theta.

    The products are averaged over replicas.

    Args:
        hessian_product: Returns (d2 inner / dtheta2) p, shaped like theta.
        mixed_product: Returns (d2 inner / (dphi dtheta)) p, shaped like phi.
    """

    hessian_product: Callable[[Vector], Vector]
    mixed_product: Callable[[Vector], Vector]


CurvatureBackend = Callable[..., Curvature]
"""``backend(problem, *, radius)``: `finite_difference`, `exact`, or a function of the caller."""


def finite_difference(problem: InnerProblem, *, radius: float) -> Curvature:
    """Return functions that multiply the inner loss's second derivatives by a vector p, by central differences.

    A product is the difference of the first-order gradients at theta +- (radius / ||p||) p, divided by their distance.

    Theta is restored from a copy after every product, also after an exception. It is frozen while the gradient of phi
    is taken, which saves a third of the pass.

    Activations should be smooth: a ReLU that switches between the two points adds jump / 2e (e the step), which in
    small models is larger than the curvature. Use autocast instead of FSDP2's mixed-precision policy, which cannot be
    disabled here.

    Args:
        problem: Its theta and phi must be float32 or float64. In lower precision rounding exceeds the difference: the
            cosine with the exact product was 0.80 with bfloat16 weights, at the best of seven radii.
        radius: Euclidean distance from theta to each of the two points.

    Raises:
        ValueError: A parameter has low precision, or (raised by a product) the loss does not use an outer parameter.
    """
    require_precise(problem, "finite differences need")
    return Curvature(
        hessian_product=partial(_difference, problem, partial(theta_gradient, problem), radius),
        mixed_product=partial(_difference, problem, partial(phi_gradient, problem), radius),
    )


def exact(problem: InnerProblem, *, radius: float = math.nan) -> Curvature:
    """Return functions that multiply the inner loss's second derivatives by a vector, by double backward.

    All products use one graph of the inner loss, computed with sdpa's math backend.

    Args:
        problem: Its theta must be on one device, not sharded. The graph is freed with the result.
        radius: Not used; all backends have the same signature.

    Raises:
        ValueError: A parameter is sharded, the loss does not use an outer parameter, or its gradient has no derivative
            (fused kernels, compiled modules, reentrant checkpoints). One case is not detected: a custom
            ``autograd.Function`` whose backward is not differentiable but not marked ``once_differentiable``. Compare
            with `finite_difference` once if the model has any.
    """
    for index, parameter in enumerate(problem.theta):
        if is_dtensor(parameter):
            raise ValueError(
                f"exact second derivatives cannot pass through sharded parameters, and "
                f"{describe('theta', index, parameter)} is a DTensor: use finite_difference"
            )
    with _twice_differentiable():
        loss = sum((scalar("inner_loss", part()) for part in problem.losses), torch.zeros(()))
        _reject_once_differentiable(loss)
        both = gradients(loss, [*problem.theta, *problem.phi], create_graph=True)
    slopes = both[: len(problem.theta)]
    require_used(both[len(problem.theta) :], problem.phi)
    if not any(slope is not None and slope.requires_grad for slope in slopes):
        raise ValueError(
            "the inner loss has no second derivative: either it is linear in theta and phi does not interact with "
            "theta, or a custom kernel cuts the graph; use finite_difference in the second case"
        )
    return Curvature(
        hessian_product=partial(_second_derivative, problem, slopes, problem.theta),
        mixed_product=partial(_second_derivative, problem, slopes, problem.phi),
    )


def calibrate_radius(product_at: Callable[[float], Vector], radius: float, *, moves: int = 8) -> tuple[float, float]:
    """Return the radius with the smallest relative error among radius * 3^n, and that error; warns if it is above 0.1.

    The error of a radius R is ||g(R) - g(R/2)|| / ||g(R)||. Truncation dominates it at large R and rounding at small R,
    so it has one minimum. The search goes down and up from `radius`.

    Args:
        product_at: Returns a product (e.g. the mixed one) by finite differences of the given radius.
        radius: Start of the search.
        moves: Maximum number of steps in each direction.

    >>> curve = lambda radius: [torch.tensor([1.0 + radius**2 + 1e-8 / radius], dtype=torch.float64)]
    >>> radius, error = calibrate_radius(curve, 1.0)
    >>> f"{radius:.4f} {error:.0e}"
    '0.0014 6e-06'
    """

    def error(at: float) -> float:
        difference = relative_difference(product_at(at), product_at(at / 2))
        return math.inf if math.isnan(difference) else difference

    best, least = radius, error(radius)
    for factor in (1 / 3, 3.0):
        trial = radius
        for _ in range(moves):
            trial *= factor
            trial_error = error(trial)
            if trial_error < least:
                best, least = trial, trial_error
            elif least <= TOLERABLE:
                break
    if least > TOLERABLE:
        warnings.warn(
            f"finite differences have a relative error of {least:.0%} at the best radius, {best:.1e}: "
            "does the loss use generators other than torch's, low precision, or activations that are not smooth?",
            stacklevel=3,
        )
    return best, least


def _difference(problem: InnerProblem, gradient: Callable[[], Vector], radius: float, direction: Vector) -> Vector:
    """[gradient(theta + e p) - gradient(theta - e p)] / 2e with e = radius / ||p||, averaged over replicas."""
    length = norm(direction)
    if length == 0:
        return [torch.zeros_like(tensor) for tensor in gradient()]
    step = radius / length
    with restored(problem.theta) as start:
        move_theta(problem.theta, start, direction, step)
        ahead = gradient()
        move_theta(problem.theta, start, direction, -step)
        behind = gradient()
    apart = [(a - b).div_(2 * step) for a, b in zip(ahead, behind, strict=True)]
    return averaged(apart, problem.reduce)


def _second_derivative(
    problem: InnerProblem, slopes: Sequence[Tensor | None], parameters: list[Parameter], direction: Vector
) -> Vector:
    """d (slopes . direction) / d parameters."""
    paired = [
        (slope, part)
        for slope, part in zip(slopes, direction, strict=True)
        if slope is not None and slope.requires_grad
    ]
    with _twice_differentiable():
        products = torch.autograd.grad(
            [slope for slope, _ in paired],
            parameters,
            grad_outputs=[part for _, part in paired],
            retain_graph=True,
            allow_unused=True,
        )
    return averaged(zeros_where_none(products, parameters), problem.reduce)


def _reject_once_differentiable(loss: Tensor) -> None:
    """Reject functions marked ``once_differentiable``: near the loss, autograd omits them without an error."""
    stack, seen = [loss.grad_fn], set[Any]()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack.extend(previous for previous, _ in node.next_functions)
        # torch exposes the Function of a custom node only as _forward_cls (docs/private_names.md).
        function: Any = getattr(node, "_forward_cls", None)
        backward = getattr(function, "backward", None)
        while backward is not None:
            code = getattr(backward, "__code__", None)
            if code is not None and code.co_filename == once_differentiable.__code__.co_filename:
                raise ValueError(_no_second_derivative(f"{function.__name__} is marked once_differentiable"))
            backward = getattr(backward, "__wrapped__", None)


def _no_second_derivative(reason: str) -> str:
    return (
        f"exact needs second derivatives, and part of the inner loss has none ({reason}). Build the model with plain "
        "attention (attn_implementation 'sdpa', 'eager' or 'document_math'), not compiled, with non-reentrant "
        "checkpoints and unfused losses, or use finite_difference"
    )


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Use the math backend of attention, also in recomputed checkpoints; turn autograd's errors into a ValueError."""
    missing = ("is not implemented", "once_differentiable", "double backward", "no autograd formula", "use_reentrant")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if not any(words in str(error) for words in missing):
            raise
        raise ValueError(_no_second_derivative(str(error))) from error
