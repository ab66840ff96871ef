"""The implicit hypergradient: the outer gradient v, a method that approximates H^-1 v, and a mixed product for phi.

Theta are the inner parameters, phi the outer ones; H is the Hessian of the inner loss with respect to theta.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .curvature import CurvatureBackend, calibrate_radius, finite_difference
from .inner_problem import InnerProblem, Loss
from .inverse_hessian import Direction, LargestCurvature, Method
from .parameter_vectors import Reduce, Vector, add, is_dtensor, norm, unreduced
from .plain_gradients import averaged, full_precision, resharded, summed_gradients, zeros_where_none
from .rng import PassState, capture_state, preserve_state, restore_state


class Diagnostics(NamedTuple):
    """Numbers of one hypergradient, for logging.

    Args:
        outer_loss: The outer loss of this replica, not averaged over replicas.
        outer_gradient_norm: ||v||, the Euclidean norm of d outer / d theta.
        hypergradient_norm: Euclidean norm of the gradient of phi.
        curvature_ratio: ||gamma H p|| / ||p|| at the last Hessian product, with H the inner Hessian and p the
            approximation of H^-1 v; None without one. Below 1e-2 the Hessian hardly changes the result.
        terms: Terms of the series, or iterations.
        hessian_products: Hessian products that were computed.
        stopped_early: Whether the method stopped early, because its series grew or the Hessian was not positive
            definite.
        gamma: Step of the Neumann series; None for other methods.
        largest_curvature: Estimate that gamma was computed from; None if gamma was given.
        radius: Radius of the finite differences. After a calibration, pass it to the next calls.
        fd_relative_error: Relative change of the finite difference when the radius is halved. None if the call did not
            calibrate.
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
    """The gradients of the outer loss with respect to the outer parameters (phi), averaged over replicas.

    Args:
        gradients: One tensor per parameter of phi, in their order.
        diagnostics: Numbers to log, and the radius for the next call.
    """

    gradients: list[Tensor]
    diagnostics: Diagnostics


class OuterGradients(NamedTuple):
    """The outer loss of this replica, and its gradients, averaged over replicas.

    Args:
        loss: The outer loss, not averaged.
        v: Gradient with respect to theta.
        direct: Gradient with respect to phi; 0 if the outer loss does not use phi.
        uses_phi: Whether the outer loss uses phi. The gradient may be 0 if it does.
    """

    loss: float
    v: Vector
    direct: Vector
    uses_phi: bool


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
    """Return the implicit gradient of the outer loss with respect to phi, through the inner parameters theta.

    The outer pass runs in the caller's precision, with any attention kernel. The inner passes run in float32 without
    autocast. To accumulate several outer batches, average the results of several calls; both losses are means over this
    replica's batch.

    Args:
        method: Approximation of the inverse Hessian: `identity`, `neumann`, `conjugate_gradient`, `adam_preconditioned`
            or `sama`, with its other keywords bound by ``functools.partial``.
        inner_loss: Returns the scalar inner loss at the current theta and phi. It is called once for every inner pass,
            each time with the same random draws.
        outer_loss: Returns the scalar outer loss at theta; it may also use phi directly. It is called once. Either loss
            may be a sequence of functions whose results are summed, to process a large batch in chunks with one chunk's
            graph in memory.
        theta: Inner parameters; a parameter that is listed twice counts once. With FSDP2, list them right after
            ``fully_shard``, and put every trainable parameter in theta or phi: ``backward()`` would otherwise fill the
            ``.grad`` of the others.
        phi: Outer parameters, which must not be sharded.
        curvature: How Hessian products are computed: `finite_difference` or `exact`.
        reduce: Averages a list of tensors over replicas, e.g. `average_over_replicas`. It is not used for sharded
            theta, whose gradients FSDP2 averages itself. The default is for one replica.
        rng: "same": the outer pass and all inner passes start from the same state of the random generators, so with the
            same dropout masks. "independent": the inner passes share one state, which differs from the outer pass's (as
            in the program released with arXiv 2306.10098).
        radius: Euclidean distance between theta and each point of a finite difference.
        calibrate: Whether to search for the best radius first, which takes 12 inner passes or more. Calibrate at the
            first call and every few hundred calls, and pass ``diagnostics.radius`` to the calls between.
        buffers: Tensors that a forward pass overwrites, such as BatchNorm's running statistics; they are restored at
            the end.

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
        loss, v, direct, _ = outer_gradients(loss_parts(outer_loss), distinct_theta, distinct_phi, reduce)
        inner_state = before if rng == "same" else capture_state(devices)._replace(buffers=before.buffers)
        problem = InnerProblem(repeated(loss_parts(inner_loss), inner_state), distinct_theta, distinct_phi, reduce)
        with full_precision(devices):
            if calibrate:
                radius, error = calibrate_radius(
                    lambda at: finite_difference(problem, radius=at).mixed_product(v), radius
                )
            products = curvature(problem, radius=radius)
            direction = require_direction(method(v, products.hessian_product), v)
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


def require_direction(direction: Direction, v: Vector) -> Direction:
    """Return the result of a method, which may be a user's.

    Raises:
        ValueError: It is no `Direction`, or its p has other tensors than v.
    """
    if not isinstance(direction, Direction):
        raise ValueError(f"the method must return a Direction(p, ...), got {type(direction).__name__}")
    found, expected = ([tuple(tensor.shape) for tensor in vector] for vector in (direction.p, v))
    if found != expected:
        first = next((i for i, shapes in enumerate(zip(found, expected, strict=False)) if len(set(shapes)) > 1), None)
        unlike = "" if first is None else f"; at {first} the shape is {found[first]}, and theta's {expected[first]}"
        raise ValueError(
            f"the method must return a tensor of the shape of each of theta's {len(expected)} parameters, got "
            f"{len(found)} tensors{unlike}"
        )
    return direction


def require_hypergradient(result: Hypergradient, phi: Sequence[Parameter], name: str) -> Hypergradient:
    """Return the result of a function that computes the whole hypergradient, which may be a user's.

    Args:
        result: What the function returned.
        phi: Outer parameters.
        name: Name of the function.

    Raises:
        ValueError: It is no `Hypergradient`, or has no gradient of the shape of each parameter.
    """
    if not isinstance(result, Hypergradient):
        raise ValueError(f"{name} must return a Hypergradient(gradients, diagnostics), got {type(result).__name__}")
    found, expected = ([tuple(tensor.shape) for tensor in vector] for vector in (result.gradients, phi))
    if found != expected:
        raise ValueError(f"{name} must return gradients of phi's shapes, {expected}, got {found}")
    return result


def distinct_levels(theta: Sequence[Parameter], phi: Sequence[Parameter]) -> tuple[list[Parameter], list[Parameter]]:
    """Return the inner parameters (theta) and the outer parameters (phi) without duplicates.

    Raises:
        ValueError: One of them is empty or has frozen parameters, phi is sharded, or a parameter is in both.
    """
    for name, parameters in (("theta", theta), ("phi", phi)):
        if not parameters:
            raise ValueError(f"{name} is empty: hypergradients need inner and outer parameters")
        frozen = [index for index, parameter in enumerate(parameters) if not parameter.requires_grad]
        if frozen:
            raise ValueError(f"{name} at {frozen} does not require a gradient: set requires_grad, or leave it out")
    sharded = [index for index, parameter in enumerate(phi) if is_dtensor(parameter)]
    if sharded:
        raise ValueError(f"phi at {sharded} is sharded: keep outer parameters outside fully_shard")
    both = set(theta) & set(phi)
    if both:
        shapes = [tuple(parameter.shape) for parameter in both]
        raise ValueError(f"parameters of shapes {shapes} are in theta and in phi: put each at one level")
    return list(dict.fromkeys(theta)), list(dict.fromkeys(phi))


def outer_gradients(
    outer_losses: list[Loss], theta: list[Parameter], phi: list[Parameter], reduce: Reduce
) -> OuterGradients:
    """Return this replica's outer loss, and its gradients with respect to theta and phi, averaged over replicas.

    Args:
        outer_losses: Functions whose sum is the outer loss.
        theta: Inner parameters.
        phi: Outer parameters; their gradient is 0 if the outer loss does not use them.
        reduce: Averages a list of tensors over replicas.

    Raises:
        ValueError: The outer loss does not depend on theta.
        FloatingPointError: The gradient with respect to theta is infinite or NaN.
    """
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
    direct, uses_phi = zeros_where_none(phi_slopes, phi), any(slope is not None for slope in phi_slopes)
    return OuterGradients(loss, v, averaged(direct, reduce) if uses_phi else direct, uses_phi)


def _reject_gathered(theta: Sequence[Parameter]) -> None:
    """Reject parameters that are FSDP2's gathered copies: their memory is freed after a pass."""
    for index, parameter in enumerate(theta):
        if parameter.numel() and not is_dtensor(parameter) and not parameter.untyped_storage().size():
            raise ValueError(
                f"theta[{index}] of shape {tuple(parameter.shape)} is a temporary that FSDP2 gathered for a forward: "
                "list the parameters once, right after fully_shard, and keep that list (or take an optimizer's)"
            )


def loss_parts(loss: Loss | Sequence[Loss]) -> list[Loss]:
    """Return the functions whose sum is the loss, as a list: a single loss becomes a list of one.

    Raises:
        ValueError: The sequence is empty.
    """
    parts = list(loss) if isinstance(loss, Sequence) else [loss]
    if not parts:
        raise ValueError("a loss given as a sequence needs at least one element")
    return parts


def repeated(losses: list[Loss], state: PassState) -> list[Loss]:
    """Return the losses such that, called in order, they use the same dropout masks every time.

    The first one restores `state`, the state of the random generators, before it is computed.
    """

    def first() -> Tensor:
        restore_state(state)
        return losses[0]()

    return [first, *losses[1:]]
