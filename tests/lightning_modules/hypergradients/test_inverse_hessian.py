"""Methods that approximate the inverse Hessian, on quadratics: polynomials, solutions, scales and errors."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from quadratics import POSITIVE, close, quadratic

from crosstask.lightning_modules.hypergradients import (
    conjugate_gradient,
    exact,
    finite_difference,
    hypergradient,
    identity,
    largest_curvature,
    neumann,
)


@pytest.mark.parametrize(("way", "tolerance"), [(exact, 1e-12), (finite_difference, 1e-9)])
@pytest.mark.parametrize("products", [0, 1, 2, 7])
def test_neumann_with_m_products_is_the_polynomial_of_m_plus_one_terms(
    products: int, way: Callable, tolerance: float
) -> None:
    q = quadratic(POSITIVE)
    method = partial(neumann, gamma=0.3, hessian_products=products)
    found = hypergradient(method, q.inner, q.outer, q.theta, q.phi, curvature=way)

    identity_matrix = torch.eye(6, dtype=torch.float64)
    shrink = identity_matrix - 0.3 * q.H
    polynomial = 0.3 * sum(torch.linalg.matrix_power(shrink, m) for m in range(products + 1))
    close(found.gradients[0], q.answer(polynomial), atol=tolerance)
    assert found.diagnostics.terms == products + 1
    assert not found.diagnostics.stopped_early

    one_term_fewer = polynomial - 0.3 * torch.linalg.matrix_power(shrink, products)
    assert not torch.allclose(found.gradients[0], q.answer(one_term_fewer), atol=1e-4)


@pytest.mark.parametrize(("way", "tolerance"), [(exact, 1e-10), (finite_difference, 1e-6)])
@pytest.mark.parametrize(
    "method", [partial(neumann, gamma=0.9, hessian_products=200), partial(conjugate_gradient, iterations=6)]
)
def test_series_and_conjugate_gradient_reach_the_implicit_solution(
    method: Callable, way: Callable, tolerance: float
) -> None:
    q = quadratic(POSITIVE)
    found = hypergradient(method, q.inner, q.outer, q.theta, q.phi, curvature=way)
    close(found.gradients[0], q.answer(torch.linalg.inv(q.H)), atol=tolerance)
    assert not found.diagnostics.stopped_early


def test_conjugate_gradient_improves_with_every_iteration() -> None:
    q = quadratic(POSITIVE)
    solution = torch.linalg.solve(q.H, q.v())

    def energy(iterations: int) -> float:
        p = conjugate_gradient([q.v()], lambda p: [q.H @ p[0]], iterations=iterations).p[0] - solution
        return float(p @ q.H @ p)

    energies = [energy(iterations) for iterations in range(1, 7)]
    assert all(after < before * 0.9 for before, after in pairwise(energies))
    assert energies[-1] < 1e-20


def test_damping_is_added_to_the_hessian() -> None:
    q = quadratic(POSITIVE)
    method = partial(conjugate_gradient, iterations=6, damping=0.5)
    found = hypergradient(method, q.inner, q.outer, q.theta, q.phi, curvature=exact)
    damped = torch.linalg.inv(q.H + 0.5 * torch.eye(6, dtype=torch.float64))
    close(found.gradients[0], q.answer(damped), atol=1e-10)


def test_identity_is_neumann_without_a_product() -> None:
    q = quadratic(POSITIVE)
    arguments = (q.inner, q.outer, q.theta, q.phi)
    scaled = hypergradient(partial(identity, scale=0.3), *arguments)
    series = hypergradient(partial(neumann, gamma=0.3, hessian_products=0), *arguments)
    assert torch.equal(scaled.gradients[0], series.gradients[0])
    assert scaled.diagnostics.curvature_ratio is None  # nothing was measured
    assert scaled.diagnostics.hessian_products == series.diagnostics.hessian_products == 0


def test_a_growing_series_is_stopped_and_said_so() -> None:
    q = quadratic([-3.0, *POSITIVE[1:]])
    method = partial(neumann, gamma=0.9, hessian_products=50)
    found = hypergradient(method, q.inner, q.outer, q.theta, q.phi, curvature=exact)
    assert found.diagnostics.stopped_early
    assert found.diagnostics.terms < 10
    assert found.diagnostics.hypergradient_norm < 100

    unstopped = partial(method, growth_limit=float("inf"))
    far = hypergradient(unstopped, q.inner, q.outer, q.theta, q.phi, curvature=exact)
    assert far.diagnostics.hypergradient_norm > 1e10


@pytest.mark.parametrize("way", [exact, finite_difference])
def test_gamma_auto_makes_the_series_converge(way: Callable) -> None:
    q = quadratic([10 * eigenvalue for eigenvalue in POSITIVE])
    method = partial(neumann, gamma="auto", hessian_products=200)
    found = hypergradient(method, q.inner, q.outer, q.theta, q.phi, curvature=way)
    numbers = found.diagnostics
    assert numbers.largest_curvature is not None
    assert 0.9 * 20 < numbers.largest_curvature.value <= 20 * (1 + 1e-6)
    assert numbers.largest_curvature.value * (1 + numbers.largest_curvature.error) >= 20 * (1 - 1e-6)
    assert numbers.gamma == pytest.approx(0.9 / numbers.largest_curvature.magnitude)
    assert not numbers.stopped_early
    close(found.gradients[0], q.answer(torch.linalg.inv(q.H)), atol=1e-6)

    # Its sign tells of a series that grows whatever gamma is.
    bent = quadratic([-30.0, *POSITIVE[1:]])
    found = hypergradient(method, bent.inner, bent.outer, bent.theta, bent.phi, curvature=way)
    assert found.diagnostics.largest_curvature is not None
    assert found.diagnostics.largest_curvature.value == pytest.approx(-30.0, rel=0.01)
    assert found.diagnostics.stopped_early

    flat = quadratic([0.0] * 6)
    with pytest.raises(ValueError, match="gamma auto found no curvature along v"):
        hypergradient(method, flat.inner, flat.outer, flat.theta, flat.phi, curvature=exact)


def test_a_little_growth_keeps_the_papers_second_term() -> None:
    """With the paper's gamma an indefinite Hessian lengthens the second term by a trifle; both terms count."""
    q = quadratic([-1.0] * 6)
    found = hypergradient(partial(neumann, gamma=1e-5), q.inner, q.outer, q.theta, q.phi, curvature=exact)
    assert found.diagnostics.terms == 2
    assert not found.diagnostics.stopped_early
    assert found.diagnostics.curvature_ratio == pytest.approx(1e-5)


def test_conjugate_gradient_says_that_the_hessian_is_not_positive() -> None:
    q = quadratic([-3.0, *POSITIVE[1:]])
    method = partial(conjugate_gradient, iterations=20)
    assert hypergradient(method, q.inner, q.outer, q.theta, q.phi, curvature=exact).diagnostics.stopped_early


def test_conjugate_gradient_keeps_the_scale_of_the_inverse_where_the_hessian_is_negative() -> None:
    v = [torch.tensor([1.0, 2.0], dtype=torch.float64)]
    stopped = conjugate_gradient(v, lambda p: [-4.0 * p[0]], iterations=5)
    assert stopped.stopped_early
    assert (stopped.terms, stopped.hessian_products) == (0, 1)
    close(stopped.p[0], v[0] / 4, atol=1e-15)  # |H|^-1 v, where v itself would be four times as long
    H = torch.diag(torch.tensor([2.0, -1.0], dtype=torch.float64))
    v = [torch.tensor([1.0, 0.5], dtype=torch.float64)]
    stopped = conjugate_gradient(v, lambda p: [H @ p[0]], iterations=5)
    assert stopped.stopped_early
    close(stopped.p[0], v[0] * (1.25 / 1.75), atol=1e-15)  # one step of v'v / v'Hv, before the second direction
    with pytest.raises(ValueError, match="the inner Hessian is 0 along the outer gradient"):
        conjugate_gradient(v, lambda p: [0.0 * p[0]], iterations=5)


def test_the_estimate_of_the_largest_curvature_knows_its_error() -> None:
    """In two dimensions, x = (cos a, sin a) with tan a = (1/3)^4 after five products: error 2 cos a sin a / value."""
    H = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    for iterations in (1, 5):
        estimate = largest_curvature(lambda p: [H @ p[0]], [torch.ones(2, dtype=torch.float64)], iterations=iterations)
        angle = math.atan((1 / 3) ** (iterations - 1))
        value = 3 * math.cos(angle) ** 2 + math.sin(angle) ** 2
        assert estimate.value == pytest.approx(value, rel=1e-12)
        assert estimate.error == pytest.approx(2 * math.cos(angle) * math.sin(angle) / value, rel=1e-9)
        assert estimate.magnitude == pytest.approx(math.hypot(3 * math.cos(angle), math.sin(angle)), rel=1e-12)
        assert abs(3 - estimate.value) <= estimate.error * estimate.value * (1 + 1e-12)  # an equality after one product


@pytest.mark.parametrize("low", [-3.0, -2.9])
def test_gamma_auto_reads_the_magnitude_where_eigenvalues_of_both_signs_cancel(low: float) -> None:
    """x H x is 0 or nearly so, from which gamma would be infinite, or several times too large."""
    H = torch.diag(torch.tensor([3.0, low, 1.0], dtype=torch.float64))
    v = [torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)]
    direction = neumann(v, lambda p: [H @ p[0]], gamma="auto", hessian_products=1)
    assert direction.largest_curvature is not None
    assert abs(direction.largest_curvature.value) < 0.6
    assert direction.largest_curvature.error > 5
    assert direction.gamma == pytest.approx(0.9 / 3, rel=0.02)
    assert not direction.stopped_early
