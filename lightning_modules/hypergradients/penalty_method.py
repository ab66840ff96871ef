"""The fully first-order hypergradient: the inner problem as a penalty, without second derivatives.

    min over phi and w, max over u:   outer(w) + alpha * (inner(w, phi) - inner(u, phi))

u minimizes the inner loss, w the inner loss and the outer one, and the gradient with respect to phi is that of the
bracket. For quadratic losses and converged u and w it is the implicit one with H + (d2 outer / dtheta2) / alpha in the
place of H: a large alpha costs digits, a small one has a bias.

Sources: Kwon et al., A Fully First-Order Method for Stochastic Bilevel Optimization (arXiv 2301.10945); Pan et al.,
ScaleBiO (arXiv 2406.19976), whose letters are u, w and alpha. ScaleBiO keeps u and w beside each other for the whole
training; here both start from theta at every call, which training moves to the inner minimum.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from .implicit import Diagnostics, Hypergradient, distinct_levels, loss_parts, outer_gradients, repeated
from .inner_problem import (
    InnerProblem,
    Loss,
    move_theta,
    phi_gradient,
    require_precise,
    restored,
    set_theta,
    theta_gradient,
)
from .parameter_vectors import Reduce, Vector, add, local, norm, unreduced
from .passes import averaged, full_precision
from .rng import preserve_state


def penalty(
    inner_loss: Loss | Sequence[Loss],
    outer_loss: Loss | Sequence[Loss],
    theta: Sequence[Parameter],
    phi: Sequence[Parameter],
    *,
    alpha: float,
    rate: float,
    steps: int = 1,
    reduce: Reduce = unreduced,
    buffers: Sequence[Tensor] = (),
) -> Hypergradient:
    """d outer / d phi + alpha (d inner(w) / d phi - d inner(u) / d phi), by 2 steps + 2 inner passes and `steps` outer.

        u <- u - rate * d inner(u) / dtheta
        w <- w - rate * (d inner(w) / dtheta + (d outer(w) / dtheta) / alpha)

    One step is DARTS' finite difference of v in one direction, at a distance of rate ||v|| / alpha; more steps are
    Neumann's series of as many terms with gamma = rate, v being taken along the way. In float32, choose alpha so that
    rate ||v|| / alpha (`Diagnostics.radius`) is about 1e-3. As `hypergradient`, it changes neither theta, nor any
    ``.grad``, nor the generators.

    Args:
        inner_loss: As for `hypergradient`.
        outer_loss: As for `hypergradient`; called once for every step, with the same random draws.
        theta: Inner parameters, also shards of FSDP2.
        phi: Outer parameters, not sharded.
        alpha: Weight of the penalty.
        rate: Step size of u and w, below 2 / (largest eigenvalue of the inner Hessian).
        steps: Gradient steps of u and of w.
        reduce: Averages a list of tensors over replicas.
        buffers: Tensors that a pass overwrites; they are restored.

    Raises:
        ValueError: A number is not positive, or a loss or parameter is one that `hypergradient` rejects.
        FloatingPointError: The outer gradient is infinite or NaN.
    """
    if not (alpha > 0 and rate > 0 and steps >= 1):
        raise ValueError(
            f"penalty needs a positive alpha and rate, and steps of 1 or more, got {alpha}, {rate}, {steps}"
        )
    distinct_theta, distinct_phi = distinct_levels(theta, phi)
    devices = [parameter.device for parameter in [*distinct_theta, *distinct_phi]]
    with preserve_state(devices, buffers) as state, torch.enable_grad(), restored(distinct_theta) as start:
        problem = InnerProblem(repeated(loss_parts(inner_loss), state), distinct_theta, distinct_phi, reduce)
        require_precise(problem, "the penalty method needs")
        first = _inner_gradient(problem)  # u and w take their first step from the same theta
        behind = _phi_gradient_at_u(problem, first, rate=rate, steps=steps)
        set_theta(problem.theta, start)
        outer = repeated(loss_parts(outer_loss), state)
        loss, length, direct = _move_to_w(problem, outer, first, alpha=alpha, rate=rate, steps=steps)
        with full_precision(devices):
            ahead = phi_gradient(problem)
    torch.clear_autocast_cache()  # of copies of w in low precision
    apart = averaged([(a - b).mul_(alpha) for a, b in zip(ahead, behind, strict=True)], reduce)
    by_parameter = dict(zip(distinct_phi, add(direct, apart), strict=True))
    result = [by_parameter[parameter] for parameter in phi]
    distance = rate * length / alpha
    return Hypergradient(result, Diagnostics(loss, length, norm(add(direct, apart)), terms=steps, radius=distance))


def _phi_gradient_at_u(problem: InnerProblem, first: Vector, *, rate: float, steps: int) -> Vector:
    """Move theta to u by `steps` steps, of which the first is known; d inner(u) / d phi of this replica."""
    _descend(problem.theta, first, rate)
    for _ in range(steps - 1):
        _descend(problem.theta, _inner_gradient(problem), rate)
    with full_precision([parameter.device for parameter in problem.theta]):
        return phi_gradient(problem)


def _move_to_w(
    problem: InnerProblem, outer: list[Loss], first: Vector, *, alpha: float, rate: float, steps: int
) -> tuple[float, float, Vector]:
    """Move theta to w; this replica's outer loss and the norm of v, both before it, and d outer(w) / d phi."""
    loss, v, direct = outer_gradients(outer, problem.theta, problem.phi, problem.reduce)
    length = norm(v)
    _descend(problem.theta, add(first, v, times=1 / alpha), rate)
    for _ in range(steps - 1):
        slope = _inner_gradient(problem)
        _, v, _ = outer_gradients(outer, problem.theta, problem.phi, problem.reduce)
        _descend(problem.theta, add(slope, v, times=1 / alpha), rate)
    if norm(direct):  # the outer loss uses phi itself
        _, _, direct = outer_gradients(outer, problem.theta, problem.phi, problem.reduce)
    return loss, length, direct


def _inner_gradient(problem: InnerProblem) -> Vector:
    """d inner / d theta, averaged over replicas, in float32."""
    with full_precision([parameter.device for parameter in problem.theta]):
        return averaged(theta_gradient(problem), problem.reduce)


def _descend(theta: Sequence[Parameter], gradient: Vector, rate: float) -> None:
    """theta <- theta - rate * gradient."""
    move_theta(theta, [local(parameter) for parameter in theta], gradient, -rate)
