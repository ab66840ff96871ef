"""Error of each hypergradient against the exact one, beside its cost in passes; `perf/bilevel.py --error` prints it.

The problem is small and in float64: a tanh network of 51 weights, fitted to weighted examples until its gradient is
below 1e-10, with phi the weights. There the implicit function theorem holds, and the exact hypergradient is a dense
solve with the Hessian. A pass is a forward and a backward through the inner or the outer loss.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from crosstask.lightning_modules.hypergradients import (
    Hypergradient,
    Loss,
    conjugate_gradient,
    hypergradient,
    neumann,
    penalty,
)
from crosstask.lightning_modules.hypergradients.parameter_vectors import cosine, relative_difference

HIDDEN, INPUTS, EXAMPLES, GROUPS = 10, 4, 40, 8
SERIES, ITERATIONS, STEPS, ALPHAS = (0, 1, 3, 15, 63), (1, 3, 15, 51), (1, 4, 16, 64), (1e0, 1e2)


class Problem(NamedTuple):
    """Both losses at the inner minimum, with the exact hypergradient and the largest eigenvalue of the Hessian."""

    inner: Loss
    outer: Loss
    theta: list[Parameter]
    phi: list[Parameter]
    exact: list[Tensor]
    largest: float


def build_problem() -> Problem:
    torch.manual_seed(0)
    draw = partial(torch.randn, dtype=torch.float64)
    x, x_outer = draw(EXAMPLES, INPUTS), draw(EXAMPLES, INPUTS)
    teacher = draw(INPUTS, 3), draw(3)
    y, y_outer = (torch.tanh(inputs @ teacher[0]) @ teacher[1] for inputs in (x, x_outer))
    y = y + torch.linspace(0, 1, GROUPS, dtype=torch.float64).repeat_interleave(EXAMPLES // GROUPS) * draw(EXAMPLES)
    sizes = [INPUTS * HIDDEN, HIDDEN, 1]
    theta, phi = [Parameter(draw(sum(sizes)) / 2)], [Parameter(torch.zeros(GROUPS, dtype=torch.float64))]

    def predicted(flat: Tensor, inputs: Tensor) -> Tensor:
        first, second, bias = flat.split(sizes)
        return torch.tanh(inputs @ first.view(INPUTS, HIDDEN)) @ second + bias

    def inner(flat: Tensor, weights: Tensor) -> Tensor:
        each = weights.sigmoid().repeat_interleave(EXAMPLES // GROUPS)
        return (each * (predicted(flat, x) - y).square()).mean() + 0.01 * flat.square().sum()

    def outer(flat: Tensor) -> Tensor:
        return (predicted(flat, x_outer) - y_outer).square().mean()

    minimize(partial(inner, theta[0], phi[0]), theta)
    point, weights = theta[0].detach(), phi[0].detach()
    hessian = torch.autograd.functional.hessian(lambda flat: inner(flat, weights), point)
    slope = torch.func.grad(inner)
    mixed = torch.func.jacrev(slope, argnums=1)(point, weights)
    exact = -mixed.T @ torch.linalg.solve(hessian, torch.func.grad(outer)(point))
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    assert float(torch.linalg.eigvalsh(hessian)[0]) > 0
    return Problem(lambda: inner(theta[0], phi[0]), lambda: outer(theta[0]), theta, phi, [exact], largest)


def minimize(loss: Loss, theta: list[Parameter]) -> None:
    """Minimize the loss over theta by L-BFGS, until its gradient vanishes."""
    settings = {"max_iter": 5000, "tolerance_grad": 1e-11, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(theta, history_size=50, **settings)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward(inputs=theta)
        return value

    optimizer.step(closure)
    steepest = max(float(parameter.grad.abs().max()) for parameter in theta if parameter.grad is not None)
    assert steepest < 1e-8, steepest
    optimizer.zero_grad()


def counted(loss: Loss, passes: list[int]) -> Loss:
    """Return the loss as a function that counts its calls in `passes`."""

    def call() -> Tensor:
        passes[0] += 1
        return loss()

    return call


def hypergradients(problem: Problem) -> dict[str, Callable[[Loss, Loss], Hypergradient]]:
    """Return each method as a function from the inner and the outer loss to the hypergradient."""
    gamma, levels = 0.9 / problem.largest, (problem.theta, problem.phi)
    named: dict[str, Callable[[Loss, Loss], Hypergradient]] = {}
    for products in SERIES:
        method = partial(neumann, gamma=gamma, hessian_products=products)
        darts = " (DARTS' direction)" if not products else ""
        named[f"neumann, M = {products}{darts}"] = lambda i, o, m=method: hypergradient(m, i, o, *levels)
    for iterations in ITERATIONS:
        method = partial(conjugate_gradient, iterations=iterations)
        name = f"conjugate gradient, iterations: {iterations}"
        named[name] = lambda i, o, m=method: hypergradient(m, i, o, *levels)
    for alpha in ALPHAS:
        for steps in STEPS:
            first_order = partial(penalty, alpha=alpha, rate=gamma, steps=steps)
            named[f"penalty with alpha = {alpha:g}, steps: {steps}"] = lambda i, o, f=first_order: f(i, o, *levels)
    return named


def rows(problem: Problem) -> list[tuple[str, int, float, float]]:
    """Return (name, passes, relative error, cosine with the exact hypergradient) of each method."""
    table = []
    for name, method in hypergradients(problem).items():
        passes = [0]
        result = method(counted(problem.inner, passes), counted(problem.outer, passes)).gradients
        table.append((name, passes[0], relative_difference(problem.exact, result), cosine(problem.exact, result)))
    return table


def print_errors() -> None:
    problem = build_problem()
    print("| method | passes | relative error | cosine |\n|---|---|---|---|")
    for name, passes, error, similarity in sorted(rows(problem), key=order):
        print(f"| {name} | {passes} | {error:.1e} | {similarity:.4f} |")


def order(row: Sequence[object]) -> tuple[str, object]:
    return str(row[0]).partition(",")[0], row[1]


if __name__ == "__main__":
    print_errors()
