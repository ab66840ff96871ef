"""What is logged and said of a step of phi."""

from ..hypergradients import Diagnostics
from .outer_methods import MethodName

_SERIES = (
    "the series of the hypergradient grew and was cut short: lower {}, or outer.hessian_products; it converges below "
    "2 / (largest eigenvalue of the inner Hessian)"
)
GREW: dict[MethodName, str] = {
    "neumann": _SERIES.format("outer.gamma"),
    "adam_preconditioned": _SERIES.format("learning_rate"),
    "conjugate_gradient": "the inner Hessian is not positive along a direction of conjugate_gradient, which stopped "
    "there: raise outer.damping, or take neumann or identity",
}
"""What is said of a method that stopped early."""


def outer_numbers(found: Diagnostics) -> dict[str, float]:
    """What was measured, by the name under which it is logged."""
    numbers = {
        "train/outer_gradient_norm": found.outer_gradient_norm,
        "train/hypergradient_norm": found.hypergradient_norm,
        "train/curvature_ratio": found.curvature_ratio,
        "train/terms": float(found.terms),
    }
    if found.largest_curvature is not None and found.gamma is not None:
        numbers |= {"train/gamma": found.gamma, "train/largest_curvature": found.largest_curvature}
    if found.fd_relative_error is not None:
        numbers |= {"train/fd_relative_error": found.fd_relative_error, "train/fd_radius": found.radius}
    return numbers


def outer_warnings(found: Diagnostics, method: MethodName) -> list[str]:
    """What a user should know before going on."""
    said = [GREW[method]] if found.grew else []
    if found.largest_curvature is not None and found.largest_curvature < 0:
        said.append(
            f"the largest curvature of the inner loss is negative ({found.largest_curvature:.2e}): the series grows "
            "along it whatever gamma is; keep outer.hessian_products small, or take identity"
        )
    return said
