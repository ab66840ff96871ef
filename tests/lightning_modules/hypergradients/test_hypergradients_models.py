"""Hypergradients through transformers with dropout on: both curvatures, the authors' recursion, no side effects."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from devices import REHEARSED
from torch import Tensor, nn
from torch.nn import Parameter
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, RobertaConfig, RobertaForMaskedLM, T5Config, T5ForConditionalGeneration

from crosstask.lightning_modules.hypergradients import (
    Vector,
    exact,
    finite_difference,
    hypergradient,
    identity,
    neumann,
)

VOCABULARY, WIDTH = 40, 16
TWO_TERMS = partial(neumann, gamma=0.05, hessian_products=1)


class Problem(NamedTuple):
    """A model with a learnable prefix before the inner batch's text, and none before the outer batch's."""

    model: PreTrainedModel
    phi: list[Parameter]
    inner: Callable[[], Tensor]
    outer: Callable[[], Tensor]

    @property
    def theta(self) -> list[Parameter]:
        return list(self.model.parameters())


def t5() -> PreTrainedModel:
    # Gated GELU as in T5 1.1 and its LM-adapted checkpoints; finite differences want smooth activations.
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.1,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
        )
    )


def roberta() -> PreTrainedModel:
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=40,
        )
    )


def problem(build: Callable[[], PreTrainedModel], dtype: torch.dtype = torch.float32) -> Problem:
    torch.manual_seed(0)
    model = build().to(dtype).train()
    prefix = Parameter(torch.randn(2, 3, WIDTH, dtype=dtype))
    encoder_decoder = model.config.is_encoder_decoder
    length = 4 if encoder_decoder else 8
    source, target = torch.randint(3, VOCABULARY, (2, 5)), torch.randint(3, VOCABULARY, (2, length))
    outer_source, outer_target = torch.randint(3, VOCABULARY, (3, 2, 8))[0], torch.randint(3, VOCABULARY, (2, length))

    def inner() -> Tensor:
        embedded = torch.cat([prefix, model.get_input_embeddings()(source)], dim=1)
        return model(inputs_embeds=embedded, labels=target).loss

    def outer() -> Tensor:
        return model(input_ids=outer_source, labels=outer_target).loss

    return Problem(model, [prefix], inner, outer)


def run(this: Problem, method: Callable = TWO_TERMS, **options: object) -> Tensor:
    found = hypergradient(method, this.inner, this.outer, this.theta, this.phi, **options)  # type: ignore[arg-type]
    return found.gradients[0]


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


# ---- nothing else changes ----


@pytest.mark.parametrize("curvature", [exact, finite_difference])
def test_theta_grads_and_the_random_stream_are_left_as_found(curvature: Callable) -> None:
    this = problem(t5)
    this.inner().backward()
    this.theta[3].grad = None
    parameters = [*this.theta, *this.phi]
    before = [parameter.detach().clone() for parameter in parameters]
    grads = [(parameter.grad, None if parameter.grad is None else parameter.grad.clone()) for parameter in parameters]
    stream = torch.get_rng_state()

    run(this, curvature=curvature, rng="independent")

    assert all(torch.equal(now, then) for now, then in zip(parameters, before, strict=True))
    assert all(parameter.requires_grad for parameter in parameters)
    assert torch.equal(torch.get_rng_state(), stream)
    for parameter, (grad, value) in zip(parameters, grads, strict=True):
        assert parameter.grad is grad
        assert grad is None or torch.equal(grad, value)


def test_a_pass_that_fails_leaves_theta_as_found() -> None:
    this = problem(t5)
    before = [parameter.detach().clone() for parameter in this.theta]
    calls = []

    def fails_at_the_second_point() -> Tensor:
        calls.append(not torch.equal(this.theta[0], before[0]))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return this.inner()

    stream = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        run(this._replace(inner=fails_at_the_second_point))
    assert calls == [True, True]
    assert all(torch.equal(now, then) for now, then in zip(this.theta, before, strict=True))
    assert all(parameter.requires_grad for parameter in [*this.theta, *this.phi])
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("curvature", [exact, finite_difference])
def test_running_statistics_are_left_as_found(curvature: Callable) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    x, phi = torch.randn(8, 4).double(), Parameter(torch.zeros(8).double())
    arguments = (
        identity,
        lambda: (phi.exp() * net(x).squeeze(1).square()).mean(),
        lambda: net(x).mean(),
        list(net.parameters()),
        [phi],
    )
    before = [buffer.clone() for buffer in net.buffers()]
    hypergradient(*arguments, curvature=curvature, buffers=list(net.buffers()))
    assert all(torch.equal(now, then) for now, then in zip(net.buffers(), before, strict=True))

    hypergradient(*arguments, curvature=curvature)
    assert not torch.equal(next(net.buffers()), before[0])


@pytest.mark.parametrize("masks", ["same", "independent"])
def test_every_pass_finds_the_same_buffers(masks: str) -> None:
    """Spectral norms and moving scales change at every forward; within one hyper-step they must not."""
    scale, weight, phi = torch.ones(()).double(), Parameter(torch.ones(3).double()), Parameter(torch.ones(3).double())

    def growing_loss() -> Tensor:
        scale.mul_(2)
        return scale.clone() * (phi * weight.square()).sum()

    found = hypergradient(identity, growing_loss, growing_loss, [weight], [phi], rng=masks, buffers=[scale])
    # The scale is 2 every time: v = 2 * 2 = 4, the direct part is 2, and the mixed derivative 2 * 2 times v.
    assert_close(found.gradients[0], torch.full((3,), 2.0 - 4.0 * 4.0).double(), rtol=1e-9, atol=0)
    assert scale == 1


def test_only_the_differentiated_parameters_require_gradients() -> None:
    this = problem(t5)
    requires_grad = []

    def inner() -> Tensor:
        requires_grad.append((this.theta[0].requires_grad, this.phi[0].requires_grad))
        return this.inner()

    run(this._replace(inner=inner), TWO_TERMS)
    assert requires_grad == [(True, False)] * 2 + [(False, True)] * 2  # one Hessian product, then the mixed one


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """[bytes that autograd keeps now, their peak]."""
    count = [0, 0]

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor, size = tensor, tensor.numel() * tensor.element_size()
            count[0] += size
            count[1] = max(count)
            weakref.finalize(self, lambda: count.__setitem__(0, count[0] - size))

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        yield count


def test_finite_differences_keep_no_more_than_a_training_step() -> None:
    this = problem(t5)
    with saved_bytes() as training:
        this.inner().backward()
    with saved_bytes() as differences:
        run(this, curvature=finite_difference)
    with saved_bytes() as twice:
        run(this, curvature=exact)
    assert training[1] > 10_000
    assert differences[1] <= 1.1 * training[1]
    assert twice[1] > 1.5 * training[1]


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
