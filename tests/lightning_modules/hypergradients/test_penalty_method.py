"""The penalty method on problems with a known answer: the penalized solution, Neumann's series, and its limits."""

from functools import partial
from typing import Any

import pytest
import torch
from quadratics import POSITIVE, close, quadratic
from torch.nn import Parameter

from crosstask.lightning_modules.hypergradients import exact, hypergradient, neumann, penalty

EYE = torch.eye(6, dtype=torch.float64)


def test_converged_copies_give_the_penalized_solution_and_a_large_alpha_the_implicit_one() -> None:
    """u = -H^-1 B phi and w = (H + I / alpha)^-1 (target / alpha - B phi): B' alpha (w - u) in closed form."""
    q = quadratic(POSITIVE)
    pull = q.B @ q.phi[0].detach()
    u = -torch.linalg.solve(q.H, pull)
    for alpha in (3.0, 1e4):
        result = penalty(q.inner, q.outer, q.theta, q.phi, alpha=alpha, rate=0.7, steps=200)
        w = torch.linalg.solve(q.H + EYE / alpha, q.target / alpha - pull)
        close(result.gradients[0], q.direct + alpha * q.B.T @ (w - u), atol=1e-8)
    implicit = q.direct - q.B.T @ torch.linalg.solve(q.H, u - q.target)  # at the inner minimum
    assert torch.linalg.vector_norm(result.gradients[0] - implicit) < 1e-3 * torch.linalg.vector_norm(implicit)


@pytest.mark.parametrize("steps", [1, 4])
def test_steps_are_terms_of_neumanns_series(steps: int) -> None:
    """Near the inner minimum, and with a large alpha, v is the same along the way."""
    q = quadratic(POSITIVE)
    minimum = -torch.linalg.solve(q.H, q.B @ q.phi[0].detach())
    q.theta[0].data, q.theta[1].data = minimum[:4].view(2, 2), minimum[4:]
    result = penalty(q.inner, q.outer, q.theta, q.phi, alpha=1e6, rate=0.3, steps=steps)
    series = partial(neumann, gamma=0.3, hessian_products=steps - 1)
    expected = hypergradient(series, q.inner, q.outer, q.theta, q.phi, curvature=exact).gradients[0]
    close(result.gradients[0], expected, atol=1e-5)
    one_term_more = partial(neumann, gamma=0.3, hessian_products=steps)
    other = hypergradient(one_term_more, q.inner, q.outer, q.theta, q.phi, curvature=exact).gradients[0]
    assert not torch.allclose(result.gradients[0], other, atol=1e-3)
    assert result.diagnostics.radius == pytest.approx(0.3 * result.diagnostics.outer_gradient_norm / 1e6)


def test_an_outer_loss_that_uses_phi_is_differentiated_at_w() -> None:
    q = quadratic(POSITIVE)

    def outer() -> Any:
        return q.outer() + q.flat()[:3] @ q.phi[0]

    result = penalty(q.inner, outer, q.theta, q.phi, alpha=0.5, rate=0.3)
    start, phi = q.flat().detach(), q.phi[0].detach()
    slope = q.H @ start + q.B @ phi
    v = q.v() + torch.cat([phi, torch.zeros(3, dtype=torch.float64)])
    w = start - 0.3 * (slope + v / 0.5)
    close(result.gradients[0], q.direct + w[:3] + 0.5 * q.B.T @ (-0.3 * v / 0.5), atol=1e-12)


def test_a_direct_gradient_that_is_zero_at_theta_is_taken_at_w() -> None:
    """outer = |t - target|^2 / 2 + (t - start)' phi on the first coordinates, whose gradient by phi begins at 0."""
    q = quadratic(POSITIVE)
    start, phi = q.flat().detach().clone(), q.phi[0].detach()

    def outer() -> Any:
        return (q.flat() - q.target).square().sum() / 2 + (q.flat() - start)[:3] @ q.phi[0]

    result = penalty(q.inner, outer, q.theta, q.phi, alpha=0.5, rate=0.3)
    v = q.v() + torch.cat([phi, torch.zeros(3, dtype=torch.float64)])
    w = start - 0.3 * (q.H @ start + q.B @ phi + v / 0.5)
    close(result.gradients[0], (w - start)[:3] + 0.5 * q.B.T @ (-0.3 * v / 0.5), atol=1e-12)


def test_theta_its_gradients_and_the_generators_stay_as_they_were() -> None:
    q = quadratic(POSITIVE)
    noise = partial(torch.randn, 6, dtype=torch.float64)

    def noisy() -> Any:
        return q.inner() + 100 * noise() @ q.flat() * q.phi[0].sum()

    before, state = q.flat().detach().clone(), torch.get_rng_state()
    first = penalty(noisy, q.outer, q.theta, q.phi, alpha=1e3, rate=0.1, steps=2).gradients[0]
    assert torch.equal(q.flat(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in [*q.theta, *q.phi])
    # Every pass draws the same noise: otherwise the difference times alpha would be of the size of the noise.
    again = penalty(noisy, q.outer, q.theta, q.phi, alpha=1e5, rate=0.1, steps=2).gradients[0]
    assert torch.linalg.vector_norm(first - again) < 0.05 * torch.linalg.vector_norm(first)


def test_bad_numbers_and_low_precision_are_rejected() -> None:
    q = quadratic(POSITIVE)
    for numbers in ({"alpha": 0.0}, {"rate": -1.0}, {"steps": 0}):
        with pytest.raises(ValueError, match="penalty needs a positive alpha and rate, and steps of 1 or more"):
            penalty(q.inner, q.outer, q.theta, q.phi, **{"alpha": 1.0, "rate": 0.1, **numbers})
    half = Parameter(torch.zeros(6, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"the penalty method needs float32 weights, and theta\[2\]"):
        penalty(q.inner, q.outer, [*q.theta, half], q.phi, alpha=1.0, rate=0.1)
