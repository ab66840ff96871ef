"""A hypergradient leaves weights, gradients, the random stream, buffers and memory as they were."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypergradient_problems import TWO_TERMS, problem, run, t5
from torch import Tensor, nn
from torch.nn import Parameter
from torch.testing import assert_close

from crosstask.lightning_modules.hypergradients import exact, finite_difference, hypergradient, identity


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
