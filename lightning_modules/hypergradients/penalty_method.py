"""The fully first-order hypergradient: the inner problem becomes a penalty, and no second derivatives are needed.

    min over phi and w, max over u:   outer(w) + alpha * (inner(w, phi) - inner(u, phi))

u minimizes the inner loss, and w the inner loss plus outer / alpha. The gradient with respect to phi is that of the
bracket times alpha. For quadratic losses and converged u and w, it is the implicit hypergradient with H + (d2 outer /
dtheta2) / alpha in place of H. A large alpha loses digits, a small one adds bias.

Sources: Kwon et al., A Fully First-Order Method for Stochastic Bilevel Optimization (arXiv 2301.10945); Pan et al.,
ScaleBiO (arXiv 2406.19976), whose letters are u, w and alpha. ScaleBiO keeps u and w through the whole training. Here
both start from theta at every call, since training moves theta to the inner minimum.
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
from .plain_gradients import averaged, full_precision
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
    """Return d outer / d phi + alpha (d inner(w) / d phi - d inner(u) / d phi), from first-order gradients only.

    u and w start at theta and take `steps` steps each::

        u <- u - rate * d inner(u) / dtheta
        w <- w - rate * (d inner(w) / dtheta + (d outer(w) / dtheta) / alpha)

    This takes 2 * steps + 1 inner passes and `steps` outer passes, one more if the outer loss uses phi. One step equals
    a finite difference of the implicit hypergradient with the identity in place of H^-1, at a distance of rate ||v|| /
    alpha (DARTS). More steps equal as many terms of Neumann's series with gamma = rate, where v is computed anew at
    every step. In float32, choose alpha so that rate ||v|| / alpha (`Diagnostics.radius`) is about 1e-3. Like
    `hypergradient`, it changes neither theta, nor any ``.grad``, nor the random generators.

    Args:
        inner_loss: Returns the scalar inner loss at the current theta and phi. It is called once for every inner pass,
            each time with the same random draws.
        outer_loss: Returns the scalar outer loss at theta. It is called at every step, with the same random draws.
            Either loss may be a sequence of functions whose results are summed.
        theta: Inner parameters; they may be sharded by FSDP2.
        phi: Outer parameters, which must not be sharded.
        alpha: Weight of the penalty.
        rate: Step size of u and w. It must be below 2 / (largest eigenvalue of the inner Hessian).
        steps: Number of gradient steps of u, and of w.
        reduce: Averages a list of tensors over replicas, e.g. `average_over_replicas`; not used for sharded theta.
        buffers: Tensors that a forward pass overwrites; they are restored at the end.

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
    """Move theta to u by `steps` steps, the first along `first`; return this replica's d inner(u) / d phi."""
    _descend(problem.theta, first, rate)
    for _ in range(steps - 1):
        _descend(problem.theta, _inner_gradient(problem), rate)
    with full_precision([parameter.device for parameter in problem.theta]):
        return phi_gradient(problem)


def _move_to_w(
    problem: InnerProblem, outer: list[Loss], first: Vector, *, alpha: float, rate: float, steps: int
) -> tuple[float, float, Vector]:
    """Move theta to w; return this replica's outer loss and ||v||, both at the start, and d outer(w) / d phi."""
    loss, v, direct, uses_phi = outer_gradients(outer, problem.theta, problem.phi, problem.reduce)
    length = norm(v)
    _descend(problem.theta, add(first, v, times=1 / alpha), rate)
    for _ in range(steps - 1):
        slope = _inner_gradient(problem)
        v = outer_gradients(outer, problem.theta, problem.phi, problem.reduce).v  # the one before is not kept
        _descend(problem.theta, add(slope, v, times=1 / alpha), rate)
    if uses_phi:
        direct = outer_gradients(outer, problem.theta, problem.phi, problem.reduce).direct
    return loss, length, direct


def _inner_gradient(problem: InnerProblem) -> Vector:
    """Return d inner / d theta, averaged over replicas, in float32."""
    with full_precision([parameter.device for parameter in problem.theta]):
        return averaged(theta_gradient(problem), problem.reduce)


def _descend(theta: Sequence[Parameter], gradient: Vector, rate: float) -> None:
    """Set theta to theta - rate * gradient, in place."""
    move_theta(theta, [local(parameter) for parameter in theta], gradient, -rate)
