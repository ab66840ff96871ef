"""Hypergradients: gradients of the outer loss with respect to phi, through the inner parameters theta.

    v   = d outer / d theta
    p   = (approximately) H^-1 v,  H = d2 inner / dtheta2      the method
    out = d outer / d phi  -  d2 inner / (dphi dtheta) p       the first term is 0 in the paper

A method is a function ``method(v, hessian_product) -> Direction`` (inverse_hessian.py); bind its other keywords with
``functools.partial``. A curvature backend is `finite_difference` or `exact` (curvature.py)::

    step = hypergradient(partial(neumann, gamma=1e-5, hessian_products=1), inner_loss, outer_loss, theta, phi)
    for parameter, gradient in zip(phi, step.gradients):
        parameter.grad = gradient

A call changes neither theta, nor any ``.grad``, nor the random generators: training continues as without it.

`penalty` is another hypergradient, of first-order gradients alone; `unrolled` differentiates through inner steps.

Sources: Differentiable Instruction Optimization (arXiv 2306.10098), whose letters are theta, phi, gamma and M;
Lorraine et al., Optimizing Millions of Hyperparameters by Implicit Differentiation (arXiv 1911.02590); Choe et al.,
Making Scalable Meta Learning Practical (SAMA, arXiv 2310.05674); Pan et al., ScaleBiO (arXiv 2406.19976).
"""

from .curvature import CurvatureBackend, exact, finite_difference
from .implicit import Diagnostics, Hypergradient, hypergradient
from .inner_problem import Loss
from .inverse_hessian import (
    Direction,
    HessianProduct,
    LargestCurvature,
    Method,
    adam_preconditioned,
    adam_sensitivity,
    adam_step_sizes,
    conjugate_gradient,
    identity,
    largest_curvature,
    neumann,
    sama,
)
from .parameter_vectors import Reduce, Vector, average_over_replicas, unreduced
from .penalty_method import penalty
from .unrolling import unrolled

__all__ = [
    "CurvatureBackend",
    "Diagnostics",
    "Direction",
    "HessianProduct",
    "Hypergradient",
    "LargestCurvature",
    "Loss",
    "Method",
    "Reduce",
    "Vector",
    "adam_preconditioned",
    "adam_sensitivity",
    "adam_step_sizes",
    "average_over_replicas",
    "conjugate_gradient",
    "exact",
    "finite_difference",
    "hypergradient",
    "identity",
    "largest_curvature",
    "neumann",
    "penalty",
    "sama",
    "unreduced",
    "unrolled",
]
