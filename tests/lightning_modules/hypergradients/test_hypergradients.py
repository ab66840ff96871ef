"""Hypergradients on problems whose answer is known: quadratics, ridge regression, an unrolled network."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from quadratics import POSITIVE, close, quadratic
from torch import Tensor
from torch.nn import Parameter
from torch.testing import assert_close

from crosstask.lightning_modules.hypergradients import (
    Vector,
    adam_preconditioned,
    adam_sensitivity,
    adam_step_sizes,
    conjugate_gradient,
    exact,
    finite_difference,
    hypergradient,
    identity,
    neumann,
    sama,
    unrolled,
)
from crosstask.lightning_modules.hypergradients.curvature import calibrate_radius


def test_accumulated_outer_batches_are_the_mean_of_several_calls() -> None:
    q = quadratic(POSITIVE)

    def against(target: Tensor) -> Tensor:
        return hypergradient(
            partial(neumann, gamma=0.3), q.inner, q._replace(target=target).outer, q.theta, q.phi
        ).gradients[0]

    halves = (against(q.target - 1) + against(q.target + 1)) / 2
    close(halves, against(q.target), atol=1e-9)


def test_a_shared_parameter_counts_once_and_phi_keeps_its_order() -> None:
    q = quadratic(POSITIVE)
    twice = [*q.theta, q.theta[0]]
    method = partial(neumann, gamma=0.3, hessian_products=2)
    once = hypergradient(method, q.inner, q.outer, q.theta, q.phi)
    again = hypergradient(method, q.inner, q.outer, twice, [q.phi[0], q.phi[0]])
    assert torch.equal(once.gradients[0], again.gradients[0])
    assert torch.equal(once.gradients[0], again.gradients[1])


# ---- ridge regression: the normal equations are the inner optimum ----


@pytest.mark.parametrize(("way", "tolerance"), [(exact, 1e-9), (finite_difference, 1e-6)])
@pytest.mark.parametrize(
    "method", [partial(conjugate_gradient, iterations=5), partial(neumann, gamma=0.4, hessian_products=400)]
)
def test_ridge_regression_meets_its_normal_equations(method: Callable, way: Callable, tolerance: float) -> None:
    torch.manual_seed(0)
    X, y, X_val, y_val = torch.randn(20, 5), torch.randn(20), torch.randn(20, 5), torch.randn(20)
    X, y, X_val, y_val = (data.double() for data in (X, y, X_val, y_val))
    log_decay = Parameter(torch.tensor([-1.0], dtype=torch.float64))

    def solution() -> Tensor:
        return torch.linalg.solve(X.T @ X / 20 + log_decay.exp() * torch.eye(5).double(), X.T @ y / 20)

    weights = Parameter(solution().detach())

    def inner() -> Tensor:
        return (X @ weights - y).square().mean() / 2 + log_decay.exp().squeeze() * weights.square().sum() / 2

    def outer(w: Tensor) -> Tensor:
        return (X_val @ w - y_val).square().mean()

    found = hypergradient(method, inner, lambda: outer(weights), [weights], [log_decay], curvature=way).gradients[0]
    truth = torch.autograd.grad(outer(solution()), log_decay)[0]
    assert_close(found, truth, rtol=tolerance, atol=0)


# ---- a tanh network, with one weight per training example as phi ----


class Network(NamedTuple):
    """Twelve weighted training points; the outer loss is on twelve others."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    theta: list[Parameter]
    phi: list[Parameter]

    def residuals(self, theta: Vector, x: Tensor, y: Tensor) -> Tensor:
        return (torch.tanh(x @ theta[0]) @ theta[1] - y).square()

    def inner(self, theta: Vector) -> Tensor:
        weights = self.phi[0].sigmoid().repeat_interleave(3)
        return (weights * self.residuals(theta, self.x, self.y)).mean()

    def outer(self, theta: Vector) -> Tensor:
        return self.residuals(theta, self.x_val, self.y_val).mean()

    def sgd(self, lr: float) -> Callable[[Vector], Vector]:
        """One inner step; differentiable, or cut from the graph where it begins."""

        def step(theta: Vector) -> Vector:
            slopes = torch.autograd.grad(self.inner(theta), theta, create_graph=True)
            return [value - lr * slope for value, slope in zip(theta, slopes, strict=True)]

        return step

    def trained(self, *, lr: float, steps: int) -> list[Parameter]:
        values: Vector = list(self.theta)
        for _ in range(steps):
            values = [Parameter(value.detach()) for value in self.sgd(lr)(values)]
        return [Parameter(value.detach()) for value in values]


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    draw = partial(torch.randn, dtype=torch.float64)
    truth = draw(4, 3), draw(3)
    x, x_val = draw(12, 4), draw(12, 4)
    y, y_val = torch.tanh(x @ truth[0]) @ truth[1], torch.tanh(x_val @ truth[0]) @ truth[1]
    y = y + torch.arange(4, dtype=torch.float64).repeat_interleave(3) * draw(12)  # the last groups are noise
    theta = [Parameter(draw(4, 3) / 2), Parameter(draw(3) / 2)]
    return Network(x, y, x_val, y_val, theta, [Parameter(torch.zeros(4, dtype=torch.float64))])


def test_unrolling_is_the_derivative_of_the_whole_training() -> None:
    net = network(0)
    found = unrolled([net.sgd(0.1)] * 20, net.outer, net.theta, net.phi)[0]

    def trained_loss() -> Tensor:
        return net.outer(list(net.trained(lr=0.1, steps=20))).detach()

    for place in range(4):
        sides = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                net.phi[0][place] += step
            sides.append(trained_loss())
        with torch.no_grad():
            net.phi[0][place] += 1e-5
        assert_close((sides[0] - sides[1]) / 2e-5, found[place], rtol=1e-7, atol=0)


def test_neumann_follows_the_unrolled_training() -> None:
    """M = K - 1 and gamma = the learning rate: the unrolled sum, with every Hessian taken at the last theta."""
    net = network(0)
    truth = unrolled([net.sgd(0.02)] * 20, net.outer, net.theta, net.phi)[0]
    theta = net.trained(lr=0.02, steps=20)
    method = partial(neumann, gamma=0.02, hessian_products=19)
    inner, outer = partial(net.inner, list(theta)), partial(net.outer, list(theta))
    found = hypergradient(method, inner, outer, theta, net.phi).gradients[0]
    assert torch.cosine_similarity(found, truth, dim=0) > 0.9
    assert found.norm() / truth.norm() == pytest.approx(1, abs=0.3)
    assert torch.cosine_similarity(-found, truth, dim=0) < 0  # the sign is part of the claim


def test_a_step_down_the_hypergradient_lowers_the_outer_loss_after_retraining() -> None:
    def improves(seed: int) -> bool:
        net = network(seed)
        train = partial(net.trained, lr=0.05, steps=60)
        theta = train()
        inner, outer = partial(net.inner, list(theta)), partial(net.outer, list(theta))
        method = partial(neumann, gamma=0.05, hessian_products=20)
        slope = hypergradient(method, inner, outer, theta, net.phi).gradients[0]
        with torch.no_grad():
            net.phi[0] -= 0.1 * slope / slope.norm()
        return bool(net.outer(list(train())) < net.outer(list(theta)))

    # Tossing a coin 20 times gives 17 heads or more with probability 0.0013.
    assert sum(improves(seed) for seed in range(20)) >= 17


# ---- Adam's step sizes and sensitivity ----


def adam_after(slopes: list[Tensor], weight: Parameter) -> torch.optim.Adam:
    optimizer = torch.optim.Adam([weight], lr=0.1, eps=1e-12)
    for slope in slopes:
        weight.grad = slope.clone()
        optimizer.step()
    return optimizer


def test_adam_sensitivity_is_the_derivative_of_its_update() -> None:
    torch.manual_seed(0)
    first, last = torch.randn(2, 5, dtype=torch.float64)
    step, weight = 1e-6, Parameter(torch.zeros(5, dtype=torch.float64))
    ends = []
    for side in (step, -step):
        moved = Parameter(torch.zeros(5, dtype=torch.float64))
        adam_after([first, last + side], moved)
        ends.append(moved.detach())
    measured = (ends[1] - ends[0]) / (2 * step)  # the update is subtracted

    optimizer = adam_after([first, last], weight)
    assert_close(adam_sensitivity(optimizer, [weight], [weight.grad])[0], measured, rtol=1e-6, atol=1e-9)


def test_adam_step_sizes_are_what_a_gradient_is_multiplied_by() -> None:
    weight = Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = adam_after([torch.tensor([2.0, -4.0, 0.0], dtype=torch.float64)], weight)
    # lr 0.1 over the root of the mean square, 2 and 4; a weight that never had a gradient does not move.
    # Squares 4 and 16 are not exact in 1 - 0.999 of float64, hence 1e-9.
    close(adam_step_sizes(optimizer, [weight])[0], torch.tensor([0.05, 0.025, 0.0], dtype=torch.float64), atol=1e-9)
    close(adam_sensitivity(optimizer, [weight], [weight.grad])[0][2], torch.tensor(0.0).double(), atol=0)


def test_adam_preconditioning_with_equal_step_sizes_is_neumann() -> None:
    q = quadratic(POSITIVE)
    equal = [torch.full_like(parameter.detach(), 0.3) for parameter in q.theta]
    arguments = (q.inner, q.outer, q.theta, q.phi)
    found = hypergradient(partial(adam_preconditioned, step_sizes=equal, hessian_products=3), *arguments)
    series = hypergradient(partial(neumann, gamma=0.3, hessian_products=3), *arguments)
    close(found.gradients[0], series.gradients[0], atol=1e-12)

    diagonal = hypergradient(partial(sama, sensitivity=equal), *arguments)
    close(diagonal.gradients[0], q.answer(0.3 * torch.eye(6).double()), atol=1e-9)


# ---- the radius of the finite differences ----


def test_the_radius_is_calibrated_from_far_outside_the_linear_range() -> None:
    weight, outer = Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([0.3, 0.7]))
    arguments = (
        identity,
        lambda: (outer * torch.sin(20 * weight)).sum(),
        lambda: (weight * torch.tensor([3.0, 4.0])).sum(),
        [weight],
        [outer],
    )
    truth = -20 * torch.cos(20 * weight.detach()) * torch.tensor([3.0, 4.0])
    found = hypergradient(*arguments, radius=1.0, calibrate=True)
    assert found.diagnostics.fd_relative_error < 1e-3
    assert_close(found.gradients[0], truth, rtol=1e-3, atol=0)

    blind = hypergradient(*arguments, radius=1.0)
    assert blind.diagnostics.fd_relative_error is None
    assert not torch.allclose(blind.gradients[0], truth, rtol=0.5)


def test_calibration_passes_through_a_plain_where_every_radius_is_bad() -> None:
    """Far outside the linear range a smaller radius may look worse at first."""
    errors = {0: 0.5, 1: 0.7, 2: 0.9, 3: 0.6, 4: 0.01, 5: 0.02}  # at radius 3^-n

    def product_at(radius: float) -> Vector:
        place = round(-math.log(radius, 3), 2)
        halved = place != round(place)
        return [torch.tensor(1.0 if not halved else 1.0 - errors.get(int(place), 0.9))]

    radius, error = calibrate_radius(product_at, 1.0)
    assert radius == pytest.approx(3**-4)
    assert error == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_no_radius_suits_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="relative error of"):
        calibrate_radius(lambda radius: [torch.randn(3)], 1e-3)


# ---- bad input ----


def test_bad_input_is_named() -> None:
    q = quadratic(POSITIVE)
    unused = Parameter(torch.zeros(7, dtype=torch.float64))
    half = Parameter(torch.zeros(6, dtype=torch.bfloat16))
    valid = {"inner_loss": q.inner, "outer_loss": q.outer, "theta": q.theta, "phi": q.phi}

    def rejected(words: str, *, method: Callable = identity, **changed: object) -> None:
        with pytest.raises(ValueError, match=words):
            hypergradient(method, **{**valid, **changed})  # type: ignore[arg-type]

    rejected("hessian_products .M. must be 0 or more, got -1", method=partial(neumann, gamma=1, hessian_products=-1))
    rejected("gamma must be positive, got 0", method=partial(neumann, gamma=0))
    rejected("iterations must be at least 1", method=partial(conjugate_gradient, iterations=0))
    rejected("theta is empty", theta=[])
    rejected("phi is empty", phi=[])
    rejected(r"inner_loss does not depend on phi\[1\] of shape \(7,\)", phi=[*q.phi, unused])
    rejected(r"inner_loss does not depend on phi\[0\]", phi=[unused])
    rejected(r"inner_loss does not depend on phi\[1\]", phi=[*q.phi, unused], curvature=exact)
    rejected(r"float32 weights, and theta\[2\] of shape \(6,\) is torch.bfloat16", theta=[*q.theta, half])
    rejected("inner_loss must return a scalar, got a tensor of shape .6,", inner_loss=q.flat)
    rejected("outer_loss must return a scalar, got a tensor of shape .6,", outer_loss=q.flat)
    rejected("outer_loss does not depend on theta", outer_loss=lambda: q.phi[0].sum())
    rejected("no second derivative", inner_loss=lambda: (q.flat() @ q.B).sum() + q.phi[0].sum(), curvature=exact)
    rejected("are in theta and in phi", theta=[*q.theta, *q.phi])
    rejected("rng must be 'same' or 'independent', got 'paper'", rng="paper")
    rejected("radius must be a positive", radius=0.0)
    rejected("other curvature backends have none", calibrate=True, curvature=exact)
    rejected("does not require a gradient", theta=[*q.theta, Parameter(torch.zeros(1), requires_grad=False)])
    with pytest.raises(FloatingPointError, match="not finite"):
        hypergradient(identity, q.inner, lambda: q.outer() / 0, q.theta, q.phi)
    with pytest.raises(ValueError, match="no Adam moments"):
        adam_step_sizes(torch.optim.Adam(q.theta), q.theta)
    with pytest.raises(ValueError, match="no inner step and no outer loss depends on phi"):
        unrolled([], lambda values: values[0].sum(), q.theta, q.phi)
