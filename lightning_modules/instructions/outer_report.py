"""Metrics and warnings of a step of phi."""

from ..hypergradients import Diagnostics
from .outer_methods import MethodName

_SERIES = (
    "the series of the hypergradient grew and was stopped early: lower {}, or outer.hessian_products; it converges "
    "below 2 / (largest eigenvalue of the inner Hessian)"
)
STOPPED_EARLY: dict[MethodName, str] = {
    "neumann": _SERIES.format("outer.gamma"),
    "adam_preconditioned": _SERIES.format("learning_rate"),
    "conjugate_gradient": "the inner Hessian is not positive along a direction of conjugate_gradient, which stopped "
    "early: raise outer.damping, or set outer.method to neumann or identity",
}
"""The warning for a method that stopped early."""


def outer_numbers(diagnostics: Diagnostics) -> dict[str, float]:
    """The diagnostics to log, by metric name."""
    numbers = {
        "train/outer_gradient_norm": diagnostics.outer_gradient_norm,
        "train/hypergradient_norm": diagnostics.hypergradient_norm,
        "train/curvature_ratio": diagnostics.curvature_ratio,
        "train/terms": float(diagnostics.terms),
    }
    if diagnostics.largest_curvature is not None and diagnostics.gamma is not None:
        numbers |= {"train/gamma": diagnostics.gamma, "train/largest_curvature": diagnostics.largest_curvature}
    if diagnostics.fd_relative_error is not None:
        numbers |= {"train/fd_relative_error": diagnostics.fd_relative_error, "train/fd_radius": diagnostics.radius}
    return numbers


def outer_warnings(diagnostics: Diagnostics, method: MethodName) -> list[str]:
    """Warnings about a hypergradient that may be unreliable."""
    warnings = [STOPPED_EARLY[method]] if diagnostics.stopped_early else []
    if diagnostics.largest_curvature is not None and diagnostics.largest_curvature < 0:
        warnings.append(
            f"the largest curvature of the inner loss is negative ({diagnostics.largest_curvature:.2e}): the series "
            "grows along its eigenvector for every gamma; lower outer.hessian_products, or set outer.method to identity"
        )
    return warnings
