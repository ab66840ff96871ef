"""Two processes that share the batch find the hypergradient of one process with all of it.

Two processes run this file as a program; each checks its own share of the work.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import Parameter
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from warm_program import WarmProgram

from crosstask.lightning_modules.hypergradients import (
    Hypergradient,
    adam_preconditioned,
    adam_step_sizes,
    average_over_replicas,
    conjugate_gradient,
    exact,
    finite_difference,
    hypergradient,
    identity,
    neumann,
    penalty,
)

ROWS = 4

METHODS: dict[str, Callable] = {
    "identity": identity,
    "neumann": partial(neumann, gamma=0.1, hessian_products=3),
    "conjugate_gradient": partial(conjugate_gradient, iterations=3, damping=5.0),
}


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_the_whole_batch(strategy: str, program: WarmProgram, tmp_path: Path) -> None:
    for done in program.ranks(2, "-c", Path(__file__).read_text(), strategy, str(tmp_path / "rendezvous")):
        assert done.returncode == 0, done.stdout + done.stderr
        assert "checked" in done.stdout


class Network(nn.Module):
    """Two blocks of odd widths, so that the shards of two processes differ, and a head; one weight stays unused."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 5)])
        self.head = nn.Linear(5, 3)
        self.unused = nn.Linear(3, 3)

        self.checkpoints = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(checkpoint(block, x, use_reentrant=False) if self.checkpoints else block(x))
        return self.head(x)


class Bilevel:
    """An inner loss with a learnable shift of the input and weight of the outputs, an outer loss without."""

    def __init__(self, *, shifts: bool = True) -> None:
        torch.manual_seed(0)
        self.model = Network().double()
        self.phi = [Parameter(torch.randn(5).double()), Parameter(torch.rand(3).double())]
        self.x, self.y, self.x_out, self.y_out = (torch.randn(ROWS, width).double() for width in (5, 3, 5, 3))
        self.theta = list(self.model.parameters())
        self.rows = slice(None)
        if not shifts:
            self.phi[0] = self.phi[1]

    def inner(self) -> Tensor:
        shift = self.phi[0] if self.phi[0] is not self.phi[1] else 0.0
        outputs = self.model(self.x[self.rows] + shift)
        return (self.phi[1] * (outputs - self.y[self.rows]).square()).sum(1).mean()

    def outer(self) -> Tensor:
        return (self.model(self.x_out[self.rows]) - self.y_out[self.rows]).square().sum(1).mean()

    def run(self, method: Callable, **options: object) -> Hypergradient:
        return hypergradient(method, self.inner, self.outer, self.theta, self.phi, **options)  # type: ignore[arg-type]


def shared(strategy: str, rank: int, *, reshard: bool | None = True, shifts: bool = True) -> Bilevel:
    """The same problem with half of the rows here, and with theta cut into shards under fsdp."""
    half = Bilevel(shifts=shifts)
    half.rows = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    if strategy == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for block in half.model.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(half.model, mesh=mesh, reshard_after_forward=reshard)
        half.theta = list(half.model.parameters())  # now, because a forward may leave gathered ones in their place
    return half


def whole(parameters: list[Parameter]) -> list[Tensor]:
    return [getattr(parameter, "full_tensor", lambda here=parameter: here)().detach() for parameter in parameters]


def check_methods(strategy: str, rank: int) -> None:
    reshards = (True, False, None) if strategy == "fsdp" else (True,)
    for name, reshard, shifts in product(METHODS, reshards, (True, False)):
        truth = Bilevel(shifts=shifts).run(METHODS[name])
        half = shared(strategy, rank, reshard=reshard, shifts=shifts)
        before = whole(half.theta)
        loss = half.outer().detach()
        found = half.run(METHODS[name], reduce=average_over_replicas)
        assert_close(found.gradients, truth.gradients, rtol=1e-6, atol=1e-12)
        assert found.diagnostics.outer_gradient_norm == pytest.approx(truth.diagnostics.outer_gradient_norm)
        ratio = truth.diagnostics.curvature_ratio  # None where no Hessian product is taken
        assert found.diagnostics.curvature_ratio == (None if ratio is None else pytest.approx(ratio, rel=1e-5))
        assert all(parameter.grad is None for parameter in [*half.theta, *half.phi])
        assert_close(whole(half.theta), before, rtol=0, atol=0)
        assert torch.equal(half.outer(), loss)

        alone = half.run(METHODS[name])  # the same without averaging: what a replica would believe by itself
        assert not torch.allclose(alone.gradients[0], truth.gradients[0], rtol=0.01)


def freeze_first_block(bilevel: Bilevel) -> None:
    """Leave theta the weights that train."""
    bilevel.model.blocks[0].requires_grad_(False)
    bilevel.theta = [parameter for parameter in bilevel.theta if parameter.requires_grad]


def check_penalty(strategy: str, rank: int) -> None:
    """Several steps of both copies, which end where those of one process do; theta is as before, also a part of it."""
    first_order = partial(penalty, alpha=10.0, rate=0.1, steps=3)
    for freezes, uses_phi in product((False, True), (False, True)):
        whole_batch, half = Bilevel(), shared(strategy, rank)
        losses = []
        for bilevel in (whole_batch, half):
            if freezes:
                freeze_first_block(bilevel)
            losses.append((bilevel.inner, partial(outer_with_phi, bilevel) if uses_phi else bilevel.outer))
        truth = first_order(*losses[0], whole_batch.theta, whole_batch.phi)
        before = whole(half.theta)
        result = first_order(*losses[1], half.theta, half.phi, reduce=average_over_replicas)
        assert_close(result.gradients, truth.gradients, rtol=1e-6, atol=1e-12)
        assert result.diagnostics.outer_gradient_norm == pytest.approx(truth.diagnostics.outer_gradient_norm)
        assert_close(whole(half.theta), before, rtol=0, atol=0)
        alone = first_order(*losses[1], half.theta, half.phi)
        assert not torch.allclose(alone.gradients[0], truth.gradients[0], rtol=0.01)


def outer_with_phi(bilevel: Bilevel) -> Tensor:
    return bilevel.outer() + (bilevel.model(bilevel.x_out[bilevel.rows] + bilevel.phi[0]) ** 2).sum(1).mean()


def check_frozen_weights(strategy: str, rank: int) -> None:
    """Theta is the weights that train; the others are constants, as in one process."""
    truth, half = Bilevel(), shared(strategy, rank)
    freeze_first_block(truth)
    freeze_first_block(half)
    for method in METHODS.values():
        found = half.run(method, reduce=average_over_replicas)
        assert_close(found.gradients, truth.run(method).gradients, rtol=1e-6, atol=1e-12)


def check_checkpoints(strategy: str, rank: int) -> None:
    truth, half = Bilevel().run(METHODS["neumann"]), shared(strategy, rank)
    half.model.checkpoints = True
    found = half.run(METHODS["neumann"], reduce=average_over_replicas)
    assert_close(found.gradients, truth.gradients, rtol=1e-6, atol=1e-12)


def check_gradients_are_kept(strategy: str, rank: int) -> None:
    half = shared(strategy, rank)
    half.inner().backward()
    parameters = [*half.theta, *half.phi]
    grads = [(parameter.grad, None if parameter.grad is None else parameter.grad.clone()) for parameter in parameters]
    half.run(METHODS["neumann"], reduce=average_over_replicas)
    for parameter, (grad, value) in zip(parameters, grads, strict=True):
        assert parameter.grad is grad
        assert grad is None or torch.equal(*(getattr(g, "to_local", lambda g=g: g)() for g in (grad, value)))


def check_after_training(strategy: str, rank: int) -> None:
    """An Adam step, a look without gradients before theta moves again, a calibrated radius, Adam's step sizes."""
    results = []
    for bilevel, reduce in ((Bilevel(), None), (shared(strategy, rank, reshard=False), average_over_replicas)):
        theta = bilevel.theta
        optimizer = torch.optim.AdamW(theta, lr=0.01)
        bilevel.inner().backward()
        if reduce is not None and strategy == "ddp":
            for parameter in theta:
                if parameter.grad is not None:
                    parameter.grad = reduce([parameter.grad])[0]
        optimizer.step()
        with torch.no_grad():
            bilevel.outer()
            for parameter in theta:
                parameter.mul_(1.5)  # unseen by a module that stays gathered
        method = partial(adam_preconditioned, step_sizes=adam_step_sizes(optimizer, theta), hessian_products=2)
        options = {} if reduce is None else {"reduce": reduce}
        results.append(bilevel.run(method, calibrate=True, curvature=finite_difference, **options))
    truth, found = results
    assert_close(found.gradients, truth.gradients, rtol=1e-6, atol=1e-12)
    radii = average_over_replicas([torch.tensor(found.diagnostics.radius, dtype=torch.float64)])
    assert radii[0].item() == found.diagnostics.radius  # replicas agree on the radius


def check_refusals(rank: int) -> None:
    half = shared("fsdp", rank, reshard=False)
    with pytest.raises(ValueError, match="exact second derivatives cannot pass through sharded parameters"):
        half.run(identity, curvature=exact)
    with pytest.raises(ValueError, match="keep outer parameters outside fully_shard"):
        hypergradient(identity, half.inner, half.outer, half.phi, half.theta)
    half.outer()
    half.theta = list(half.model.parameters())
    with pytest.raises(ValueError, match="a temporary that FSDP2 gathered for a forward"):
        half.run(identity)


def main(strategy: str, rank: int, rendezvous: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    check_methods(strategy, rank)
    check_penalty(strategy, rank)
    check_frozen_weights(strategy, rank)
    check_checkpoints(strategy, rank)
    check_gradients_are_kept(strategy, rank)
    check_after_training(strategy, rank)
    if strategy == "fsdp":
        check_refusals(rank)
    dist.destroy_process_group()
    print("checked")


if __name__ == "__main__":
    main(sys.argv[1], int(os.environ["RANK"]), sys.argv[2])
