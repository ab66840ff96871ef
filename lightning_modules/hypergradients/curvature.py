"""Second derivatives of the inner loss, times a vector: two ways to the same two products.

``finite_difference`` runs first-order passes at two nearby points. It keeps fused attention kernels and works
under DDP and FSDP2, where a second backward pass is impossible. ``exact`` differentiates twice: one device,
attention without fused kernels, more than twice the memory.
"""

# With L the inner loss, p one direction in the space of theta:
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

from .parameter_vectors import Reduce, Vector, is_sharded, local, norm, relative_difference
from .passes import averaged, frozen, gathered_anew, gradients, or_zeros, scalar, summed_gradients

Loss = Callable[[], Tensor]
"""Computes a scalar from the present values of the parameters; its batch is bound by the caller."""

TOLERABLE = 0.1
"""Relative error of a finite difference above which its direction should not be trusted."""


class InnerProblem(NamedTuple):
    """The inner loss around the present theta and phi.

    Args:
        losses: Their sum is the inner loss; called in order, they draw the same random numbers every time.
        theta: Distinct inner parameters.
        phi: Distinct outer parameters.
        reduce: Averages tensors over replicas.
    """

    losses: list[Loss]
    theta: list[Parameter]
    phi: list[Parameter]
    reduce: Reduce


class Curvature(NamedTuple):
    """The two products, each averaged over replicas and shaped like theta and like phi."""

    hessian_product: Callable[[Vector], Vector]
    mixed_product: Callable[[Vector], Vector]


CurvatureBackend = Callable[..., Curvature]
"""``backend(problem, *, radius)``: `finite_difference`, `exact`, or the caller's own."""


def finite_difference(problem: InnerProblem, *, radius: float) -> Curvature:
    """Central differences of first-order gradients at theta +- (radius / ||p||) p.

    Every product backs theta up and copies it back, also when a pass fails. While phi's gradient is taken, theta is
    frozen: its weights need no gradient then, which saves a third of the pass.

    The activations should be smooth. A ReLU that switches between the two points adds a jump / 2e, which in small
    models is larger than the curvature. A mixed-precision policy of FSDP2 acts inside the modules, where it cannot be
    switched off from here: use autocast instead.

    Args:
        problem: Theta and phi in float32 or float64. Lower precisions are refused: their rounding drowns the
            difference (cosine 0.80 with the exact product, at the best of seven radii).
        radius: Distance from theta to each of the two points, in units of theta.

    Raises:
        ValueError: Parameters of low precision, or (on a product) outer parameters that the loss does not use.
    """
    for name, parameters in (("theta", problem.theta), ("phi", problem.phi)):
        for place, parameter in enumerate(parameters):
            if parameter.dtype in (torch.bfloat16, torch.float16):
                raise ValueError(
                    f"finite differences need float32 weights, and {_describe(name, place, parameter)} is "
                    f"{parameter.dtype}: keep the weights in float32 (precision bf16-mixed does), or use exact"
                )
    return Curvature(
        hessian_product=partial(_difference, problem, partial(_theta_gradient, problem), radius),
        mixed_product=partial(_difference, problem, partial(_phi_gradient, problem), radius),
    )


def exact(problem: InnerProblem, *, radius: float = math.nan) -> Curvature:
    """Double backward through one graph of the inner loss, with attention in plain operations.

    Args:
        problem: Theta on this device, not sharded. The graph lives as long as the result.
        radius: Not used; every backend takes it.

    Raises:
        ValueError: Sharded parameters, outer parameters that the loss does not use, or a loss whose gradient has
            no derivative (fused kernels, compiled modules, reentrant checkpoints). One case cannot be seen here: a
            custom ``autograd.Function`` whose backward calls a kernel of its own without saying so; compare with
            `finite_difference` once where there are any.
    """
    for place, parameter in enumerate(problem.theta):
        if is_sharded(parameter):
            raise ValueError(
                f"exact second derivatives cannot pass through sharded parameters, and "
                f"{_describe('theta', place, parameter)} is a DTensor: use finite_difference"
            )
    with _twice_differentiable():
        loss = sum((scalar("inner_loss", part()) for part in problem.losses), torch.zeros(()))
        _reject_once_differentiable(loss)
        both = gradients(loss, [*problem.theta, *problem.phi], create_graph=True)
    slopes = both[: len(problem.theta)]
    _require_used(both[len(problem.theta) :], problem.phi)
    if not any(slope is not None and slope.requires_grad for slope in slopes):
        raise ValueError(
            "the inner loss has no second derivative: its gradient depends on nothing. It is linear in theta and "
            "unmixed with phi, or a custom kernel cut the graph; use finite_difference for the latter"
        )
    return Curvature(
        hessian_product=partial(_second_derivative, problem, slopes, problem.theta),
        mixed_product=partial(_second_derivative, problem, slopes, problem.phi),
    )


def calibrate_radius(product_at: Callable[[float], Vector], radius: float, *, moves: int = 8) -> tuple[float, float]:
    """The radius of least error among radius * 3^n, and that error; a warning if even that one is above 0.1.

    The error of a radius R is ||g(R) - g(R/2)|| / ||g(R)||: truncation rules it when R is large, rounding when R is
    small, so it has one valley, walked to from `radius` downwards and upwards.

    Args:
        product_at: One product (say the mixed one) by finite differences of the given radius.
        radius: Where to start.
        moves: Steps at most in either direction.

    >>> curve = lambda radius: [torch.tensor([1.0 + radius**2 + 1e-8 / radius], dtype=torch.float64)]
    >>> radius, error = calibrate_radius(curve, 1.0)
    >>> f"{radius:.4f} {error:.0e}"
    '0.0014 6e-06'
    """

    def error(at: float) -> float:
        found = relative_difference(product_at(at), product_at(at / 2))
        return math.inf if math.isnan(found) else found

    best, least = radius, error(radius)
    for factor in (1 / 3, 3.0):
        trial = radius
        for _ in range(moves):
            trial *= factor
            here = error(trial)
            if here < least:
                best, least = trial, here
            elif least <= TOLERABLE:
                break
    if least > TOLERABLE:
        warnings.warn(
            f"finite differences of the inner loss are off by {least:.0%} at the best radius ({best:.1e}): is the "
            "loss random beyond torch's generators, in low precision, or not smooth?",
            stacklevel=3,
        )
    return best, least


def _difference(problem: InnerProblem, gradient: Callable[[], Vector], radius: float, direction: Vector) -> Vector:
    """[gradient(theta + e p) - gradient(theta - e p)] / 2e with e = radius / ||p||, averaged once."""
    length = norm(direction)
    if length == 0:
        return [torch.zeros_like(tensor) for tensor in gradient()]
    step = radius / length
    backup = [local(parameter).clone() for parameter in problem.theta]
    try:
        _place(problem.theta, backup, direction, step)
        ahead = gradient()
        _place(problem.theta, backup, direction, -step)
        behind = gradient()
    finally:
        # A copy, never the step undone by arithmetic: that drifts by a rounding error each time.
        for parameter, values in zip(problem.theta, backup, strict=True):
            local(parameter).copy_(values)
    apart = [(a - b).div_(2 * step) for a, b in zip(ahead, behind, strict=True)]
    return averaged(apart, problem.reduce)


def _place(theta: Sequence[Parameter], origin: Vector, direction: Vector, step: float) -> None:
    """theta <- origin + step * direction."""
    for parameter, start, towards in zip(theta, origin, direction, strict=True):
        torch.add(start, local(towards), alpha=step, out=local(parameter))


def _theta_gradient(problem: InnerProblem) -> Vector:
    with gathered_anew(problem.theta), frozen(problem.phi):
        _, found = summed_gradients("inner_loss", problem.losses, problem.theta)
        return or_zeros(found, problem.theta)


def _phi_gradient(problem: InnerProblem) -> Vector:
    with gathered_anew(problem.theta), frozen(problem.theta):
        _, found = summed_gradients("inner_loss", problem.losses, problem.phi)
        _require_used(found, problem.phi)
        return or_zeros(found, problem.phi)


def _second_derivative(
    problem: InnerProblem, slopes: Sequence[Tensor | None], parameters: list[Parameter], direction: Vector
) -> Vector:
    """d (slopes . direction) / d parameters."""
    paired = [
        (slope, towards)
        for slope, towards in zip(slopes, direction, strict=True)
        if slope is not None and slope.requires_grad
    ]
    with _twice_differentiable():
        found = torch.autograd.grad(
            [slope for slope, _ in paired],
            parameters,
            grad_outputs=[towards for _, towards in paired],
            retain_graph=True,
            allow_unused=True,
        )
    return averaged(or_zeros(found, parameters), problem.reduce)


def _reject_once_differentiable(loss: Tensor) -> None:
    """Autograd leaves such functions out of the second derivative without an error when they stand near the loss."""
    waiting, seen = [loss.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)
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
    """Attention in plain operations, also where a checkpoint computes it again, and errors that say what is missing."""
    missing = ("is not implemented", "once_differentiable", "double backward", "no autograd formula", "use_reentrant")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if not any(words in str(error) for words in missing):
            raise
        raise ValueError(_no_second_derivative(str(error))) from error


def _require_used(found: Sequence[Tensor | None], phi: Sequence[Parameter]) -> None:
    unused = [_describe("phi", place, phi[place]) for place, tensor in enumerate(found) if tensor is None]
    if unused:
        raise ValueError(
            f"inner_loss does not depend on {', '.join(unused)}: leave such parameters out of phi, or use them in it"
        )


def _describe(name: str, place: int, parameter: Tensor) -> str:
    return f"{name}[{place}] of shape {tuple(parameter.shape)}"
