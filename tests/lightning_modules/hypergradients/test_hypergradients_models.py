"""Hypergradients through transformers with dropout on: both curvatures, and the authors' recursion."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from devices import REHEARSED
from hypergradient_problems import Problem, problem, roberta, run, t5
from torch import Tensor, nn
from torch.nn import Parameter
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from crosstask.lightning_modules.hypergradients import (
    Vector,
    exact,
    finite_difference,
    hypergradient,
    identity,
    neumann,
)


def cosine(first: Tensor, second: Tensor) -> float:
    return torch.cosine_similarity(first.flatten(), second.flatten(), dim=0).item()


def relative(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


def recursion_of_the_authors(this: Problem, *, gamma: float, products: int, one_mask: bool) -> Tensor:
    """Their program, step by step: v and p apart, gamma and the sign at the end, and one more term than products."""
    start = torch.get_rng_state()
    v: Vector = list(torch.autograd.grad(this.outer(), this.theta))
    if one_mask:
        torch.set_rng_state(start)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        f = torch.autograd.grad(this.inner(), this.theta, create_graph=True)
    p = v
    for _ in range(products):
        hessian_v = torch.autograd.grad(f, this.theta, grad_outputs=v, retain_graph=True)
        v = [a - gamma * b for a, b in zip(v, hessian_v, strict=True)]
        p = [a + b for a, b in zip(p, v, strict=True)]
    torch.set_rng_state(start)
    return torch.autograd.grad(f, this.phi[0], grad_outputs=[-gamma * tensor for tensor in p])[0]


@pytest.mark.parametrize("rng", ["same", "independent"])
@pytest.mark.parametrize(("gamma", "products"), [(1e-5, 1), (0.01, 3)])
def test_the_authors_recursion(gamma: float, products: int, rng: str) -> None:
    this = problem(t5, torch.float64)
    method = partial(neumann, gamma=gamma, hessian_products=products)
    truth = recursion_of_the_authors(this, gamma=gamma, products=products, one_mask=rng == "same")
    # T5 computes its norms and softmax in float32 whatever the weights are, hence no smaller tolerances.
    assert relative(run(this, method, curvature=exact, rng=rng), truth) < 1e-5
    assert relative(run(this, method, curvature=finite_difference, rng=rng), truth) < 5e-3

    other = recursion_of_the_authors(this, gamma=gamma, products=products, one_mask=rng != "same")
    assert relative(other, truth) > 1e-2  # the two ways of drawing masks differ visibly


@pytest.mark.parametrize("build", [t5, roberta])
def test_finite_differences_meet_double_backward_with_dropout_on(
    build: Callable[[], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    this = problem(build)
    truth = run(this, curvature=exact)
    found = run(this, curvature=finite_difference)
    assert relative(found, truth) < 5e-3
    assert cosine(found, truth) > 0.9999

    monkeypatch.setattr("crosstask.lightning_modules.hypergradients.implicit.restore_state", lambda state: None)
    assert abs(cosine(run(this, curvature=finite_difference), truth)) < 0.5


def test_low_precision_does_not_reach_the_inner_passes() -> None:
    this = problem(t5)
    truth = run(this, identity)
    seen = []

    def inner() -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))
        return this.inner()

    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = run(this._replace(inner=inner), identity)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {(False, "highest")}
    assert 0 < relative(mixed, truth) < 0.2  # the outer pass was in bfloat16, and that is harmless


def test_matmul_precision_chosen_per_backend_comes_back() -> None:
    this = problem(t5)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        run(this, identity)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"


def test_autocast_copies_from_before_the_last_inner_step_are_not_used() -> None:
    layer, phi = nn.Linear(4, 4), Parameter(torch.ones(4))
    x = torch.randn(3, 4)

    def outer() -> Tensor:
        return layer(x).square().sum()

    def found() -> float:
        inner = lambda: (layer(x) * phi).square().sum()  # noqa: E731
        return hypergradient(identity, inner, outer, list(layer.parameters()), [phi]).diagnostics.outer_loss

    with torch.autocast("cpu", dtype=torch.bfloat16):
        outer()
        with torch.no_grad():
            layer.weight += 1
        inside = found()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert found() == inside


# ---- the straight-through extractor ----


def test_the_extractors_gradient_is_the_soft_jacobian_at_the_hard_choice() -> None:
    """Logits choose one of four exemplars, hard forwards and soft backwards; their text is embedded by theta."""
    torch.manual_seed(0)
    table = Parameter(torch.randn(9, 4, dtype=torch.float64))
    head = Parameter(torch.randn(4, 3, dtype=torch.float64))
    logits = Parameter(torch.tensor([0.2, 0.9, 0.5, 0.1], dtype=torch.float64))
    tokens = torch.randint(0, 9, (4, 5))  # four exemplars of five tokens
    chosen = []

    def embedded() -> Tensor:
        return table[tokens].mean(dim=1)  # [4, width]

    def loss_of(embedding: Tensor) -> Tensor:
        return torch.tanh(embedding @ head).square().sum()

    def straight_through() -> Tensor:
        soft = logits.softmax(0)
        hard = torch.nn.functional.one_hot(logits.argmax(), 4).double()
        chosen.append(hard.argmax().item())
        return loss_of((hard - soft.detach() + soft) @ embedded())

    theta, outer = [table, head], lambda: (table[0] @ head).sum()
    v = torch.autograd.grad(outer(), theta)
    rows = embedded()
    (slope,) = torch.autograd.grad(loss_of(rows[1]), rows, create_graph=True)
    benefits = rows @ slope[1]  # what a little more of each exemplar would change
    moved = [sum((a * b).sum() for a, b in zip(g, v, strict=True)) for g in each_gradient(benefits, theta)]
    soft = logits.detach().softmax(0)
    jacobian = torch.diag(soft) - torch.outer(soft, soft)
    truth = -jacobian @ torch.stack(moved)

    for curvature, tolerance in ((exact, 1e-12), (finite_difference, 1e-6)):
        found = hypergradient(identity, straight_through, outer, theta, [logits], curvature=curvature, radius=1e-4)
        assert_close(found.gradients[0], truth, rtol=tolerance, atol=0)
    assert chosen == [1] * 3  # one exact pass, two nearby points
    assert (truth.abs() > 1e-3).all()  # also of the exemplars that were not chosen


def each_gradient(values: Tensor, theta: list[Parameter]) -> list[tuple[Tensor, ...]]:
    return [torch.autograd.grad(value, theta, retain_graph=True) for value in values]


# ---- kernels without second derivatives ----


def attention_of(projection: nn.Module, phi: Tensor) -> Tensor:
    x = projection(phi)
    return nn.functional.scaled_dot_product_attention(x, x, x).square().mean()


def twice(loss: Tensor, projection: nn.Linear, phi: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(loss, projection.weight, create_graph=True)
    return torch.autograd.grad(slope.sum(), phi)[0]


class OnceDifferentiable(torch.autograd.Function):
    """A kernel as libraries write them: its own backward, and no derivative of that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


def test_exact_takes_math_attention_by_itself() -> None:
    torch.manual_seed(0)
    projection, phi = nn.Linear(8, 8), Parameter(torch.randn(1, 2, 6, 8))
    with pytest.raises(RuntimeError, match="not implemented"):  # the CPU's flash kernel, left alone
        twice(attention_of(projection, phi), projection, phi)

    inner, outer = partial(attention_of, projection, phi), lambda: projection.weight.sum()
    arguments = (identity, inner, outer, list(projection.parameters()), [phi])
    truth, found = (hypergradient(*arguments, curvature=way).gradients[0] for way in (exact, finite_difference))
    assert relative(found, truth) < 5e-3


def test_exact_rejects_what_cannot_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    projection, phi = nn.Linear(8, 8), Parameter(torch.randn(1, 2, 6, 8))
    outer, theta = lambda: projection.weight.sum(), list(projection.parameters())
    compiled = torch.compile(lambda x: projection(x).tanh().square().mean(), backend="aot_eager")

    def flash() -> Tensor:
        x = projection(phi)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)[0].square().mean()

    losses = {
        "is not implemented": flash,
        "double backward": lambda: compiled(phi),
        "OnceDifferentiable is marked": lambda: OnceDifferentiable.apply(projection(phi).mean()),
        "use_reentrant": lambda: checkpoint(partial(attention_of, projection), phi, use_reentrant=True),
    }
    for reason, inner in losses.items():
        with pytest.raises(ValueError, match=f"exact needs second derivatives.*{reason}.*use finite_difference"):
            hypergradient(identity, inner, outer, theta, [phi], curvature=exact)
        if reason != "use_reentrant":  # such checkpoints reject every call of autograd.grad
            hypergradient(identity, inner, outer, theta, [phi], curvature=finite_difference)


def test_non_reentrant_checkpoints_change_nothing() -> None:
    torch.manual_seed(0)
    projection, phi = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2)), Parameter(torch.randn(1, 2, 6, 8))
    outer, theta = lambda: projection[0].weight.sum(), list(projection.parameters())
    plain = partial(attention_of, projection, phi)
    kept = lambda: checkpoint(partial(attention_of, projection), phi, use_reentrant=False)  # noqa: E731
    for curvature in (exact, finite_difference):
        first, second = (
            hypergradient(identity, inner, outer, theta, [phi], curvature=curvature).gradients[0]
            for inner in (plain, kept)
        )
        assert_close(first, second)


@pytest.mark.parametrize("device", REHEARSED)
def test_finite_differences_meet_double_backward_in_half_precision(device: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.3), nn.Linear(64, 64)).to(device)
    x, phi = torch.randn(32, 64, device=device), Parameter(torch.zeros(32, device=device))
    arguments = (
        identity,
        lambda: (phi.sigmoid() * net(x).square().mean(1)).mean(),
        lambda: net(x).mean(),
        list(net.parameters()),
        [phi],
    )
    stream: Callable[[], Tensor] = torch.cuda.get_rng_state if device == "cuda" else torch.get_rng_state
    before = stream()
    with torch.autocast(device, dtype=torch.bfloat16):
        truth, found = (hypergradient(*arguments, curvature=way).gradients[0] for way in (exact, finite_difference))
    assert torch.equal(stream(), before)
    assert relative(found, truth) < 5e-3  # 4e-4 on a CPU
