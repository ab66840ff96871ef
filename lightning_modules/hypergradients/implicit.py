"""The implicit hypergradient: a pass for v, a method that turns v into p, and a mixed product for phi."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .curvature import CurvatureBackend, calibrate_radius, finite_difference
from .inner_problem import InnerProblem, Loss
from .inverse_hessian import LargestCurvature, Method
from .parameter_vectors import Reduce, Vector, add, is_sharded, norm, unreduced
from .passes import averaged, full_precision, resharded, summed_gradients, zeros_where_none
from .rng import PassState, capture_state, preserve_state, restore_state


class Diagnostics(NamedTuple):
    """Numbers to log.

    Args:
        outer_loss: Of this replica, not averaged.
        outer_gradient_norm: ||v||.
        hypergradient_norm: Euclidean norm of the result.
        curvature_ratio: See `Direction`.
        terms: See `Direction`.
        hessian_products: See `Direction`.
        stopped_early: See `Direction`.
        gamma: See `Direction`.
        largest_curvature: See `Direction`.
        radius: Radius of the finite differences; pass it to the next call.
        fd_relative_error: Relative change of a finite difference when the radius is halved; None if not calibrated.
    """

    outer_loss: float
    outer_gradient_norm: float
    hypergradient_norm: float
    curvature_ratio: float | None = None
    terms: int = 1
    hessian_products: int = 0
    stopped_early: bool = False
    gamma: float | None = None
    largest_curvature: LargestCurvature | None = None
    radius: float = 1e-3
    fd_relative_error: float | None = None


class Hypergradient(NamedTuple):
    """One gradient per outer parameter, averaged over replicas, in the order of phi."""

    gradients: list[Tensor]
    diagnostics: Diagnostics


def hypergradient(
    method: Method,
    inner_loss: Loss | Sequence[Loss],
    outer_loss: Loss | Sequence[Loss],
    theta: Sequence[Parameter],
    phi: Sequence[Parameter],
    *,
    curvature: CurvatureBackend = finite_difference,
    reduce: Reduce = unreduced,
    rng: Literal["same", "independent"] = "same",
    radius: float = 1e-3,
    calibrate: bool = False,
    buffers: Sequence[Tensor] = (),
) -> Hypergradient:
    """The gradient of the outer loss with respect to phi, through the inner parameters.

    The outer pass runs in the caller's precision and with any kernel; the inner passes run in float32 without
    autocast. Both losses are means over this replica's batch: average the results of several calls to accumulate
    outer batches.

    Args:
        method: `identity`, `neumann`, `conjugate_gradient`, `adam_preconditioned` or `sama`, keywords bound.
        inner_loss: Scalar loss of theta and phi. Called for every pass, with the same random draws.
        outer_loss: Scalar loss of theta, and optionally of phi directly. Called once. Either loss may be a sequence of
            losses, which are summed: a large batch in chunks, so that only one chunk's graph is in memory.
        theta: Inner parameters; a shared one counts once. With FSDP2, list them right after ``fully_shard``, and put
            every trainable parameter in theta or phi, because ``backward()`` would fill the ``.grad`` of others.
        phi: Outer parameters, not sharded.
        curvature: `finite_difference` or `exact`.
        reduce: Averages a list of tensors over replicas. FSDP2 averages theta's gradients itself, but not phi's.
        rng: "same": every pass starts from the same state of the generators. "independent": the inner passes share a
            state that differs from the outer pass's (as in the program released with the paper).
        radius: Euclidean distance between theta and the points of a finite difference.
        calibrate: Search for the best radius first, which takes 12 inner passes or more. Do so at the first step and
            every few hundred, and pass ``diagnostics.radius`` to the calls between.
        buffers: Tensors that a pass overwrites, such as BatchNorm's running statistics; they are restored.

    Raises:
        ValueError: Theta or phi is empty, a parameter is in both, frozen, or sharded although in phi, a loss is not a
            scalar, the outer loss does not depend on theta, the inner loss does not depend on a parameter of phi, or
            the curvature backend rejects the problem.
        FloatingPointError: The outer gradient is infinite or NaN.
    """
    if rng not in ("same", "independent"):
        raise ValueError(f"rng must be 'same' or 'independent', got {rng!r}")
    if calibrate and curvature is not finite_difference:
        raise ValueError("calibrate searches for the radius of finite_difference; other curvature backends have none")
    if not radius > 0:
        raise ValueError(f"radius must be a positive distance, got {radius}")
    distinct_theta, distinct_phi = distinct_levels(theta, phi)
    devices = list(dict.fromkeys(parameter.device for parameter in [*distinct_theta, *distinct_phi]))

    error: float | None = None
    with preserve_state(devices, buffers) as before, torch.enable_grad():
        loss, v, direct = outer_gradients(loss_parts(outer_loss), distinct_theta, distinct_phi, reduce)
        inner_state = before if rng == "same" else capture_state(devices)._replace(buffers=before.buffers)
        problem = InnerProblem(repeated(loss_parts(inner_loss), inner_state), distinct_theta, distinct_phi, reduce)
        with full_precision(devices):
            if calibrate:
                radius, error = calibrate_radius(
                    lambda at: finite_difference(problem, radius=at).mixed_product(v), radius
                )
            products = curvature(problem, radius=radius)
            direction = method(v, products.hessian_product)
            through_theta = products.mixed_product(direction.p)
    result = add(direct, through_theta, times=-1.0)
    by_parameter = dict(zip(distinct_phi, result, strict=True))
    return Hypergradient(
        gradients=[by_parameter[parameter] for parameter in phi],
        diagnostics=Diagnostics(
            outer_loss=loss,
            outer_gradient_norm=norm(v),
            hypergradient_norm=norm(result),
            curvature_ratio=direction.curvature_ratio,
            terms=direction.terms,
            hessian_products=direction.hessian_products,
            stopped_early=direction.stopped_early,
            gamma=direction.gamma,
            largest_curvature=direction.largest_curvature,
            radius=radius,
            fd_relative_error=error,
        ),
    )


def distinct_levels(theta: Sequence[Parameter], phi: Sequence[Parameter]) -> tuple[list[Parameter], list[Parameter]]:
    """Theta and phi without duplicates; checks what needs no pass."""
    for name, parameters in (("theta", theta), ("phi", phi)):
        if not parameters:
            raise ValueError(f"{name} is empty: hypergradients need inner and outer parameters")
        frozen = [index for index, parameter in enumerate(parameters) if not parameter.requires_grad]
        if frozen:
            raise ValueError(f"{name} at {frozen} does not require a gradient: set requires_grad, or leave it out")
    sharded = [index for index, parameter in enumerate(phi) if is_sharded(parameter)]
    if sharded:
        raise ValueError(f"phi at {sharded} is sharded: keep outer parameters outside fully_shard")
    both = set(theta) & set(phi)
    if both:
        shapes = [tuple(parameter.shape) for parameter in both]
        raise ValueError(f"parameters of shapes {shapes} are in theta and in phi: put each at one level")
    return list(dict.fromkeys(theta)), list(dict.fromkeys(phi))


def outer_gradients(
    outer_losses: list[Loss], theta: list[Parameter], phi: list[Parameter], reduce: Reduce
) -> tuple[float, Vector, Vector]:
    """This replica's loss, and the averaged gradients with respect to theta and phi."""
    # Autocast caches low-precision copies of the weights until its outermost block ends: they are stale after a step.
    torch.clear_autocast_cache()
    with resharded(theta):
        loss, slopes = summed_gradients("outer_loss", outer_losses, [*theta, *phi])
    _reject_gathered(theta)
    theta_slopes, phi_slopes = slopes[: len(theta)], slopes[len(theta) :]
    if all(slope is None for slope in theta_slopes):
        raise ValueError("outer_loss does not depend on theta: its gradient cannot reach phi through it")
    v = averaged(zeros_where_none(theta_slopes, theta), reduce)
    if not math.isfinite(norm(v)):
        raise FloatingPointError(f"the gradient of outer_loss ({loss}) is not finite")
    direct = zeros_where_none(phi_slopes, phi)
    return loss, v, direct if all(slope is None for slope in phi_slopes) else averaged(direct, reduce)


def _reject_gathered(theta: Sequence[Parameter]) -> None:
    """Reject FSDP2's gathered copies of parameters, whose memory is freed after a pass."""
    for index, parameter in enumerate(theta):
        if parameter.numel() and not is_sharded(parameter) and not parameter.untyped_storage().size():
            raise ValueError(
                f"theta[{index}] of shape {tuple(parameter.shape)} is a temporary that FSDP2 gathered for a forward: "
                "list the parameters once, right after fully_shard, and keep that list (or take an optimizer's)"
            )


def loss_parts(loss: Loss | Sequence[Loss]) -> list[Loss]:
    """The losses whose sum is the loss."""
    parts = list(loss) if isinstance(loss, Sequence) else [loss]
    if not parts:
        raise ValueError("a loss given as a sequence needs at least one element")
    return parts


def repeated(losses: list[Loss], state: PassState) -> list[Loss]:
    """The losses, of which the first restores the state: called in order, they draw the same numbers."""

    def first() -> Tensor:
        restore_state(state)
        return losses[0]()

    return [first, *losses[1:]]
