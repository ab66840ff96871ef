"""Methods that approximate H^-1 v, with H the Hessian of the inner loss and v the gradient of the outer loss.

A method is a function ``method(v, hessian_product) -> Direction``; bind its other keywords with ``functools.partial``.
Vectors are lists with one tensor per distinct parameter of theta.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from .parameter_vectors import Vector, add, dot, norm, product, scaled

HessianProduct = Callable[[Vector], Vector]
"""H times a vector, shaped like theta."""


class Direction(NamedTuple):
    """The result of a method: the approximation p of H^-1 v, and numbers about its computation.

    Args:
        p: The approximation of H^-1 v: one tensor per parameter of theta.
        terms: Terms of the series that were summed, or iterations.
        hessian_products: Products with the Hessian that were computed; 0 for methods without the Hessian.
        curvature_ratio: ||gamma H p|| / ||p|| at the last Hessian product; None without one. Below 1e-2 the Hessian
            hardly changes the result, and `identity` is cheaper.
        stopped_early: Whether the method stopped early, because its series grew or the Hessian was not positive
            definite.
        gamma: Step of the Neumann series; None for other methods.
        largest_curvature: The estimate that gamma was computed from; None if gamma was given.
    """

    p: Vector
    terms: int = 1
    hessian_products: int = 0
    curvature_ratio: float | None = None
    stopped_early: bool = False
    gamma: float | None = None
    largest_curvature: "LargestCurvature | None" = None


class LargestCurvature(NamedTuple):
    """An estimate of the eigenvalue of H with the largest magnitude.

    Args:
        value: The eigenvalue with its sign: the Rayleigh quotient x H x of a vector x of length 1.
        error: ||H x - value x|| / |value|. H has an eigenvalue within this relative distance of `value`.
        magnitude: ||H x||, at most the largest magnitude of an eigenvalue. It is larger than |value| if eigenvalues of
            both signs are about equally large, since they cancel in x H x.
    """

    value: float
    error: float
    magnitude: float


Method = Callable[[Vector, HessianProduct], Direction]


def identity(v: Vector, hessian_product: HessianProduct, *, scale: float = 1.0) -> Direction:
    """Return p = scale * v, with the identity in place of H^-1 ("T1-T2" of Lorraine et al., arXiv 1911.02590).

    With scale = (M + 1) gamma it approximates a Neumann series of M + 1 terms if gamma ||H|| is small.

    Args:
        v: Gradient of the outer loss with respect to theta.
        hessian_product: Not called; all methods have the same signature.
        scale: Factor of v.
    """
    return Direction(scaled(v, scale))


def neumann(
    v: Vector,
    hessian_product: HessianProduct,
    *,
    gamma: float | Literal["auto"],
    hessian_products: int = 1,
    growth_limit: float = 2.0,
) -> Direction:
    """Return p = gamma * sum over m = 0..M of (I - gamma H)^m v, which tends to H^-1 v (Eq. 12 of arXiv 2306.10098).

    The sum has M + 1 terms, all multiplied by gamma. Omitting that factor would change training, because Adam's eps and
    gradient clipping are absolute numbers.

    Args:
        gamma: Step of the series. It converges for gamma < 2 / (largest eigenvalue of H) if H is positive definite.
            "auto" is 0.9 / (largest magnitude of an eigenvalue), whose estimate takes 5 more Hessian products.
        hessian_products: M; each product takes two inner passes with `finite_difference`.
        growth_limit: The series stops before a term that is longer than this multiple of the first term. The limit is
            above 1, since terms may grow a little if H is indefinite.

    Raises:
        ValueError: M is negative, gamma is not positive, or "auto" finds no curvature.
    """
    largest = None
    if gamma == "auto":
        largest = largest_curvature(hessian_product, v)
        if not largest.magnitude:
            raise ValueError(
                "gamma auto found no curvature along v, where the inner loss is flat: set gamma to a number"
            )
        gamma = 0.9 / largest.magnitude
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    step = gamma
    direction = _series(lambda vector: scaled(vector, step), v, hessian_product, hessian_products, growth_limit)
    return direction._replace(gamma=step, largest_curvature=largest)


def largest_curvature(hessian_product: HessianProduct, start: Vector, *, iterations: int = 5) -> LargestCurvature:
    """Return an estimate of the eigenvalue of H with the largest magnitude, by power iterations.

    A few iterations underestimate the magnitude, rarely by more than half. If the eigenvalue is negative, the Neumann
    series grows along its eigenvector for every gamma, and only the first terms are meaningful.

    >>> H = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    >>> estimate = largest_curvature(lambda p: [H @ p[0]], [torch.ones(2, dtype=torch.float64)])
    >>> f"{estimate.value:.4f} {estimate.error:.4f}"
    '2.9997 0.0082'

    Args:
        hessian_product: Returns H times a vector.
        start: First vector of the iteration; v for the Neumann series.
        iterations: Number of Hessian products.
    """
    image, value, error, magnitude = start, 0.0, 0.0, 0.0
    for _ in range(iterations):
        length = norm(image)
        if not length:
            return LargestCurvature(0.0, 0.0, 0.0)
        vector = scaled(image, 1 / length)
        image = hessian_product(vector)
        value, magnitude = dot(vector, image), norm(image)
        apart = norm(add(image, vector, times=-value))
        error = apart / abs(value) if value else math.inf
    return LargestCurvature(value, error, magnitude)


def adam_preconditioned(
    v: Vector,
    hessian_product: HessianProduct,
    *,
    step_sizes: Vector,
    hessian_products: int = 0,
    growth_limit: float = 2.0,
) -> Direction:
    """Return p = sum over m = 0..M of (I - P H)^m P v, with P the diagonal matrix of Adam's step sizes.

    The sum tends to H^-1 v. It is the Neumann series with the steps of the optimizer that trains theta; with P = gamma
    it is `neumann`.

    Args:
        v: Gradient of the outer loss with respect to theta.
        hessian_product: Returns H times a vector.
        step_sizes: The diagonal of P, from `adam_step_sizes`.
        hessian_products: M, the number of Hessian products.
        growth_limit: The series stops before a term that is longer than this multiple of the first term.
    """
    return _series(lambda vector: product(step_sizes, vector), v, hessian_product, hessian_products, growth_limit)


def sama(v: Vector, hessian_product: HessianProduct, *, sensitivity: Vector) -> Direction:
    """Return p = D v, with D the derivative of Adam's update with respect to its gradient (SAMA, arXiv 2310.05674).

    It uses no Hessian.

    Args:
        sensitivity: The diagonal of D, from `adam_sensitivity`.
    """
    return Direction(product(sensitivity, v))


def conjugate_gradient(
    v: Vector,
    hessian_product: HessianProduct,
    *,
    iterations: int,
    tolerance: float = 1e-10,
    damping: float = 0.0,
) -> Direction:
    """Return p with (H + damping I) p = v, for H positive definite.

    It is exact after as many iterations as H has distinct eigenvalues. If H is not positive along a search direction,
    the last p is returned with `stopped_early` set. If that is the first direction, v, the result is v ||v|| / ||H v||,
    which has the scale of H^-1 v.

    Args:
        iterations: Largest number of iterations, each with one Hessian product.
        tolerance: Stop when the residual is below this multiple of ||v||.
        damping: Added to the diagonal of H.

    Raises:
        ValueError: There are no iterations, or H v is 0, so that the scale is unknown.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    p, residual, direction = scaled(v, 0.0), v, v
    squared = first = dot(v, v)
    ratio, done = 0.0, 0
    while done < iterations and squared > tolerance**2 * first:
        image = add(hessian_product(direction), direction, times=damping)
        ratio = norm(image) / norm(direction)
        curvature = dot(direction, image)
        if not curvature > 0:
            if not done and not ratio > 0:
                raise ValueError(
                    "the inner Hessian is 0 along the outer gradient, where conjugate_gradient has no solution: raise "
                    "damping, or use identity"
                )
            return Direction(p if done else scaled(v, 1 / ratio), done, done + 1, ratio, stopped_early=True)
        length = squared / curvature
        p, residual = add(p, direction, times=length), add(residual, image, times=-length)
        previous, squared = squared, dot(residual, residual)
        direction = add(residual, direction, times=squared / previous)
        done += 1
    return Direction(p, done, done, ratio if done else None)


def adam_step_sizes(optimizer: Optimizer, theta: Sequence[Parameter]) -> Vector:
    """Return Adam's step size for every element of theta: lr / (sqrt(v_hat) + eps), or 0 if its gradients were 0.

    v_hat is the mean of squared gradients after the optimizer's last step, with bias correction.

    Args:
        optimizer: ``torch.optim.Adam`` or ``AdamW``, after at least one step.
        theta: Parameters of the optimizer; a parameter that is listed twice counts once.

    Raises:
        ValueError: The optimizer lacks a parameter of theta, has no Adam moments, or uses amsgrad.
    """
    result = []
    for parameter in dict.fromkeys(theta):
        state = _adam_state(optimizer, parameter)
        mean_square = state.second / (1 - state.beta2**state.steps)
        step_size = state.lr / (mean_square.sqrt() + state.eps)
        result.append(step_size.masked_fill(state.second == 0, 0.0))
    return result


def adam_sensitivity(optimizer: Optimizer, theta: Sequence[Parameter], gradient: Sequence[Tensor | None]) -> Vector:
    """Return the derivative of Adam's last update with respect to its gradient, for every element of theta.

    SAMA's formula (arXiv 2310.05674) is lr [(1 - beta1) beta2 s - beta1 (1 - beta2) g m] / (sqrt(s) + eps)^3 with the
    moments m and s before the step. Here it is written with the moments after the step and with Adam's bias correction.
    It is exact up to eps, and 0 where all gradients were 0.

    Args:
        optimizer: ``torch.optim.Adam`` or ``AdamW``, after at least one step.
        theta: Parameters of the optimizer; a parameter that is listed twice counts once.
        gradient: Theta's ``.grad`` at the last step, taken before it is zeroed; None for a parameter that had no
            gradient.

    Raises:
        ValueError: The optimizer lacks a parameter of theta, has no Adam moments, or uses amsgrad.
    """
    result = []
    for parameter, slope in dict(zip(theta, gradient, strict=True)).items():
        state = _adam_state(optimizer, parameter)
        unbias = math.sqrt(1 - state.beta2**state.steps)
        derivative = (1 - state.beta1) * state.second
        if slope is not None:
            derivative = derivative - (1 - state.beta2) * slope.detach() * state.first
        derivative = derivative * (state.lr * unbias / (1 - state.beta1**state.steps))
        derivative = derivative / (state.second.sqrt() + state.eps * unbias) ** 3
        result.append(derivative.masked_fill(state.second == 0, 0.0))
    return result


def _series(
    precondition: Callable[[Vector], Vector],
    v: Vector,
    hessian_product: HessianProduct,
    hessian_products: int,
    growth_limit: float,
) -> Direction:
    """Return the sum of the terms (I - P H)^m P v, m = 0..M, computed as p <- p + P (v - H p) from p = P v."""
    if hessian_products < 0:
        raise ValueError(f"hessian_products (M) must be 0 or more, got {hessian_products}")
    start = precondition(v)
    p, first = start, norm(start)
    ratio: float | None = None
    for done in range(hessian_products if first else 0):
        image = precondition(hessian_product(p))
        ratio = norm(image) / norm(p)
        term = add(start, image, times=-1.0)
        if not norm(term) <= growth_limit * first:
            return Direction(p, done + 1, done + 1, ratio, stopped_early=True)
        p = add(p, term)
    return Direction(p, hessian_products + 1, hessian_products if first else 0, ratio)


class _AdamState(NamedTuple):
    """Adam's moments of a parameter, and the settings of its parameter group."""

    first: Tensor
    second: Tensor
    steps: float
    lr: float
    beta1: float
    beta2: float
    eps: float


def _adam_state(optimizer: Optimizer, parameter: Parameter) -> _AdamState:
    group = next((g for g in optimizer.param_groups if any(parameter is p for p in g["params"])), None)
    adam = any("exp_avg_sq" in state for state in optimizer.state.values())
    if group is None or not adam or group.get("amsgrad"):
        raise ValueError(
            f"no Adam moments for the parameter of shape {tuple(parameter.shape)}: take an inner step first, with "
            "torch.optim.Adam or AdamW over all of theta and without amsgrad"
        )
    state = optimizer.state.get(parameter, {})  # empty if the parameter never had a gradient
    beta1, beta2 = group["betas"]
    zeros = torch.zeros_like(parameter.detach())
    return _AdamState(
        first=state.get("exp_avg", zeros),
        second=state.get("exp_avg_sq", zeros),
        steps=float(state.get("step", 1)),
        lr=float(group["lr"]),
        beta1=float(beta1),
        beta2=float(beta2),
        eps=float(group["eps"]),
    )
