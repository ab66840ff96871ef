"""Metrics to log and warnings to print after an outer step."""

from ..hypergradients import Diagnostics

_SERIES = (
    "the series of the hypergradient grew and was stopped early: lower {}, or outer.hessian_products; it converges "
    "below 2 / (largest eigenvalue of the inner Hessian)"
)
STOPPED_EARLY: dict[str, str] = {
    "neumann": _SERIES.format("outer.gamma"),
    "adam_preconditioned": _SERIES.format("learning_rate"),
    "conjugate_gradient": "the inner Hessian is not positive along a direction of conjugate_gradient, which stopped "
    "early: raise outer.damping, or set outer.method to neumann or identity",
}
"""The warning for a method that stopped early."""
UNRELIABLE = 0.5
"""Relative error of the largest curvature above which gamma auto is warned of."""


def outer_numbers(diagnostics: Diagnostics) -> dict[str, float]:
    """Return the numbers of a hypergradient to log, by metric name; those that were not measured are left out."""
    numbers = {
        "train/outer_gradient_norm": diagnostics.outer_gradient_norm,
        "train/hypergradient_norm": diagnostics.hypergradient_norm,
        "train/hessian_products": float(diagnostics.hessian_products),
        "train/stopped_early": float(diagnostics.stopped_early),
    }
    if diagnostics.curvature_ratio is not None:
        numbers["train/curvature_ratio"] = diagnostics.curvature_ratio
    if diagnostics.largest_curvature is not None and diagnostics.gamma is not None:
        value, error, _ = diagnostics.largest_curvature
        numbers |= {"train/gamma": diagnostics.gamma, "train/largest_curvature": value}
        numbers["train/largest_curvature_error"] = error
    if diagnostics.fd_relative_error is not None:
        numbers |= {"train/fd_relative_error": diagnostics.fd_relative_error, "train/fd_radius": diagnostics.radius}
    return numbers


def outer_warnings(diagnostics: Diagnostics, method: str, *, rate: float) -> list[str]:
    """Return warnings about a hypergradient that may be unreliable, or about a step that changes nothing.

    Args:
        diagnostics: Diagnostics of the hypergradient.
        method: Name of the method, as in ``OuterSettings.method``.
        rate: Phi's learning rate at this step.
    """
    warnings = [STOPPED_EARLY.get(method, f"{method} stopped early")] if diagnostics.stopped_early else []
    if not rate:
        warnings.append("phi's learning rate is 0, so that its step moves nothing: set outer.learning_rate")
    if not diagnostics.hypergradient_norm:
        warnings.append(
            "the hypergradient is 0, so that phi's step moves nothing: the inner batch's loss is the same for all "
            "instructions, e.g. since its tasks have one exemplar, or the outer gradient is 0"
        )
    largest = diagnostics.largest_curvature
    if largest is not None and largest.error > UNRELIABLE:
        warnings.append(
            f"gamma auto is estimated from a Hessian product of length {largest.magnitude:.2e}, and the eigenvalue, "
            f"{largest.value:.2e}, has a relative error of {largest.error:.0%}: set outer.gamma to a number below "
            "2 / (largest eigenvalue of the inner Hessian)"
        )
    if largest is not None and largest.value < 0:
        warnings.append(
            f"the largest curvature of the inner loss is negative ({largest.value:.2e}): the series "
            "grows along its eigenvector for every gamma; lower outer.hessian_products, or set outer.method to identity"
        )
    return warnings
