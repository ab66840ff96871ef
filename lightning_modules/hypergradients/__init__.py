"""Hypergradients: gradients of the outer loss with respect to phi, through the inner parameters theta.

    v   = d outer / d theta
    p   = (approximately) H^-1 v,  H = d2 inner / dtheta2      the method
    out = d outer / d phi  -  d2 inner / (dphi dtheta) p       the first term is 0 in the paper

A method computes p from v by products with H: a function ``method(v, hessian_product) -> Direction``
(inverse_hessian.py), whose other keywords are bound with ``functools.partial``. A curvature backend computes the
products: `finite_difference` or `exact` (curvature.py). ``inner_loss`` and ``outer_loss`` are functions without
arguments that return a scalar loss on a batch; ``theta`` and ``phi`` are lists of parameters::

    step = hypergradient(partial(neumann, gamma=1e-5, hessian_products=1), inner_loss, outer_loss, theta, phi)
    for parameter, gradient in zip(phi, step.gradients):
        parameter.grad = gradient

A call changes neither theta, nor any ``.grad``, nor the random generators: training continues as if there had been no
call.

Two functions compute a hypergradient in other ways: `penalty` uses first-order gradients only (penalty_method.py), and
`unrolled` backpropagates through all inner steps (unrolling.py).

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
