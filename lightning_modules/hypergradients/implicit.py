"""The implicit hypergradient: one pass for v, a method's products for p, one mixed product for phi."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .curvature import CurvatureBackend, InnerProblem, Loss, calibrate_radius, finite_difference
from .inverse_hessian import Method
from .parameter_vectors import Reduce, Vector, add, is_sharded, norm, unreduced
from .passes import averaged, full_precision, gathered_anew, or_zeros, summed_gradients
from .rng import Snapshot, restore, snapshot, undisturbed


class Diagnostics(NamedTuple):
    """Numbers worth a line in the log.

    Args:
        outer_loss: This replica's, not averaged.
        outer_gradient_norm: ||v||.
        hypergradient_norm: Length of the result.
        curvature_ratio: See `Direction`.
        terms: See `Direction`.
        grew: See `Direction`.
        gamma: See `Direction`.
        largest_curvature: See `Direction`.
        radius: Distance of the finite differences: give it to the next call.
        fd_relative_error: Change of a finite difference when the radius is halved; None when not calibrated.
    """

    outer_loss: float
    outer_gradient_norm: float
    hypergradient_norm: float
    curvature_ratio: float
    terms: int
    grew: bool
    gamma: float | None
    largest_curvature: float | None
    radius: float
    fd_relative_error: float | None


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

    The outer pass runs in the ambient precision and with any kernel; the inner passes run in float32 without
    autocast. Both losses are means over this replica's batch: outer batches may be accumulated by averaging the
    results of several calls.

    Args:
        method: `identity`, `neumann`, `conjugate_gradient`, `adam_preconditioned` or `sama`, keywords bound.
        inner_loss: Scalar loss of theta and phi. Called anew for every pass, always with the same random draws.
        outer_loss: Scalar loss of theta, and of phi where it has a direct part. Called once. Either loss may be
            given as a sequence, whose sum it is: a large batch in parts, each in its own memory.
        theta: Inner parameters; a shared one counts once. Sharded ones (FSDP2): list them right after
            ``fully_shard``, and put every trainable leaf in theta or phi, since gradients come through a
            ``backward()`` that would fill the others' ``.grad``.
        phi: Outer parameters, whole on every replica.
        curvature: `finite_difference` or `exact`.
        reduce: Averages a list of tensors over replicas; FSDP2 averages theta's itself and phi still needs it.
        rng: "same": one state of the generators for every pass. "independent": the outer pass draws masks of its
            own, and the inner passes share theirs (the program released with the paper).
        radius: Distance between theta and the points of a finite difference, in units of theta.
        calibrate: Look for the best radius first, at 12 inner passes or more. Worth doing at the first step and
            every few hundred; keep ``diagnostics.radius`` between calls.
        buffers: Tensors that a pass overwrites, such as BatchNorm's running statistics; restored.

    Raises:
        ValueError: Empty theta or phi, parameters that are in both, frozen or sharded where they cannot be, a
            loss that is not a scalar, an outer loss without theta, an inner loss without one of phi, or what the
            curvature refuses.
        FloatingPointError: The outer gradient is infinite or not a number.
    """
    if rng not in ("same", "independent"):
        raise ValueError(f"rng must be 'same' or 'independent', got {rng!r}")
    if calibrate and curvature is not finite_difference:
        raise ValueError("calibrate looks for the radius of finite_difference; other curvatures have none")
    if not radius > 0:
        raise ValueError(f"radius must be a positive distance in units of theta, got {radius}")
    distinct_theta, distinct_phi = _distinct(theta, phi)
    devices = list(dict.fromkeys(parameter.device for parameter in [*distinct_theta, *distinct_phi]))

    error: float | None = None
    with undisturbed(devices, buffers) as found, torch.enable_grad():
        loss, v, direct = _outer_gradients(_parts(outer_loss), distinct_theta, distinct_phi, reduce)
        masks = found if rng == "same" else snapshot(devices)._replace(buffers=found.buffers)
        problem = InnerProblem(_repeated(_parts(inner_loss), masks), distinct_theta, distinct_phi, reduce)
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
            grew=direction.grew,
            gamma=direction.gamma,
            largest_curvature=direction.largest_curvature,
            radius=radius,
            fd_relative_error=error,
        ),
    )


def _distinct(theta: Sequence[Parameter], phi: Sequence[Parameter]) -> tuple[list[Parameter], list[Parameter]]:
    """Each parameter once, after the checks that need no pass."""
    for name, parameters in (("theta", theta), ("phi", phi)):
        if not parameters:
            raise ValueError(f"{name} is empty: hypergradients need inner and outer parameters")
        frozen = [place for place, parameter in enumerate(parameters) if not parameter.requires_grad]
        if frozen:
            raise ValueError(f"{name} at {frozen} does not require a gradient: thaw it, or leave it out")
    sharded = [place for place, parameter in enumerate(phi) if is_sharded(parameter)]
    if sharded:
        raise ValueError(f"phi at {sharded} is sharded: keep outer parameters outside fully_shard")
    both = set(theta) & set(phi)
    if both:
        shapes = [tuple(parameter.shape) for parameter in both]
        raise ValueError(f"parameters of shapes {shapes} are in theta and in phi: each belongs to one level")
    return list(dict.fromkeys(theta)), list(dict.fromkeys(phi))


def _outer_gradients(
    outer_losses: list[Loss], theta: list[Parameter], phi: list[Parameter], reduce: Reduce
) -> tuple[float, Vector, Vector]:
    """The loss here, and its averaged gradients with respect to theta and phi."""
    # Autocast keeps its low-precision copies of the weights until its outermost block ends, stale after a step.
    torch.clear_autocast_cache()
    with gathered_anew(theta):
        loss, found = summed_gradients("outer_loss", outer_losses, [*theta, *phi])
    _reject_gathered(theta)
    slopes, direct = found[: len(theta)], found[len(theta) :]
    if all(slope is None for slope in slopes):
        raise ValueError("outer_loss does not depend on theta: its gradient cannot reach phi through it")
    v = averaged(or_zeros(slopes, theta), reduce)
    if not math.isfinite(norm(v)):
        raise FloatingPointError(f"the gradient of outer_loss ({loss}) is not finite")
    zeros = or_zeros([None] * len(phi), phi)
    paths = zeros if all(path is None for path in direct) else averaged(or_zeros(direct, phi), reduce)
    return loss, v, paths


def _reject_gathered(theta: Sequence[Parameter]) -> None:
    """FSDP2's gathered copies, whose memory is freed after a pass, are not the parameters."""
    for place, parameter in enumerate(theta):
        if parameter.numel() and not is_sharded(parameter) and not parameter.untyped_storage().size():
            raise ValueError(
                f"theta[{place}] of shape {tuple(parameter.shape)} is a temporary that FSDP2 gathered for a forward: "
                "list the parameters once, right after fully_shard, and keep that list (an optimizer's will do)"
            )


def _parts(loss: Loss | Sequence[Loss]) -> list[Loss]:
    parts = list(loss) if isinstance(loss, Sequence) else [loss]
    if not parts:
        raise ValueError("a loss given in parts needs one at least")
    return parts


def _repeated(inner_losses: list[Loss], masks: Snapshot) -> list[Loss]:
    """The inner losses, which draw from the same state every time that they are called in order."""

    def first() -> Tensor:
        restore(masks)
        return inner_losses[0]()

    return [first, *inner_losses[1:]]
