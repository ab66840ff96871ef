"""Weights in bfloat16 with float32 masters: AdamW's own numbers, exact resumption, and what is rejected."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from small_runs import SmallRuns, small_trainer, weights_of
from torch import Tensor, nn

from crosstask.lightning_modules.master_weights import MASTER, MasterWeights
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.optimizer_classes import build_optimizer, reject_optimizer
from crosstask.lightning_modules.sharding.strategies import ShardedStrategy

MASTERS = Optimization(learning_rate=0.01, weight_decay=0.1, warmup=2, master_weights=True)
LOW = Network(dtype="bfloat16")


@pytest.fixture
def make_pair(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> SmallRuns:
    return SmallRuns(toybench, tmp_path, tiny_model)


def gradients_of(shapes: list[torch.Size], steps: int) -> list[list[Tensor]]:
    torch.manual_seed(1)
    return [[torch.randn(shape).bfloat16() for shape in shapes] for _ in range(steps)]


def stepped(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, gradients: list[list[Tensor]]) -> None:
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def layers(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)).bfloat16().to(dtype)


@pytest.mark.parametrize("algorithm", ["AdamW", "SGD", "Adafactor"])
@pytest.mark.parametrize("chunk", [1, 50, 2**20])
def test_masters_are_what_float32_computes_from_the_same_gradients(algorithm: str, chunk: int) -> None:
    low, wide = layers(torch.bfloat16), layers(torch.float32)
    settings = {"lr": 0.01} | ({"betas": (0.9, 0.95)} if algorithm == "AdamW" else {})
    kind: Any = getattr(torch.optim, algorithm)
    ours = MasterWeights([{"params": list(low.parameters())}], lambda groups: kind(groups, **settings), chunk=chunk)
    theirs = kind(wide.parameters(), **settings)
    steps = gradients_of([parameter.shape for parameter in wide.parameters()], 5)
    stepped(list(low.parameters()), ours, steps)
    stepped(list(wide.parameters()), theirs, steps)
    masters = [ours.state_dict()["state"][place][MASTER] for place in range(6)]
    for master, weight, rounded in zip(masters, wide.parameters(), low.parameters(), strict=True):
        torch.testing.assert_close(master, weight, rtol=0, atol=0)
        torch.testing.assert_close(rounded, weight.bfloat16(), rtol=0, atol=0)


def test_steps_that_bfloat16_rounds_away_add_up() -> None:
    """A hundred steps of 0.0001 below 1: bfloat16 has no number between 1 and 0.996."""
    moved = {}
    for master_weights in (False, True):
        model = nn.Linear(1, 1, bias=False).bfloat16()
        nn.init.ones_(model.weight)
        optimizer = build_optimizer(Optimization(learning_rate=1e-4, master_weights=master_weights), model)
        stepped([model.weight], optimizer, [[torch.ones(1, 1)]] * 100)
        moved[master_weights] = 1 - model.weight.item()
    assert moved == {False: 0.0, True: pytest.approx(0.01, abs=2**-9)}


def test_states_load_into_new_weights_exactly() -> None:
    first, second = layers(torch.bfloat16), layers(torch.bfloat16)
    optimizers = [build_optimizer(MASTERS, model) for model in (first, second)]
    steps = gradients_of([parameter.shape for parameter in first.parameters()], 5)
    stepped(list(first.parameters()), optimizers[0], steps[:3])
    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for model, optimizer in zip((first, second), optimizers, strict=True):
        stepped(list(model.parameters()), optimizer, steps[3:])
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(optimizers[1].state_dict(), optimizers[0].state_dict(), rtol=0, atol=0)

    states = optimizers[0].state_dict()
    states["state"] = {
        place: {k: v for k, v in state.items() if k != MASTER} for place, state in states["state"].items()
    }
    with pytest.raises(ValueError, match="hold no float32 master weights"):
        optimizers[1].load_state_dict(states)


@pytest.mark.parametrize("fused", [False, True])
def test_an_interrupted_run_continues_as_if_it_had_not_been(fused: bool, make_pair: SmallRuns, tmp_path: Path) -> None:
    settings = Optimization(learning_rate=0.01, weight_decay=0.1, warmup=2, fused=fused, master_weights=True)

    def fitted(steps: int, **options: Any) -> tuple[Any, Any]:
        module, data = make_pair("tuning", optimizer=settings, network=LOW, total_steps=4)
        trainer = small_trainer(steps, gradient_clip_val=0.1)
        trainer.fit(module, datamodule=data, **options)
        return module, trainer

    whole, straight = fitted(4)
    fitted(2)[1].save_checkpoint(tmp_path / "two.ckpt")
    resumed, trainer = fitted(4, ckpt_path=str(tmp_path / "two.ckpt"))
    assert {weight.dtype for weight in weights_of(resumed).values()} == {torch.bfloat16}
    torch.testing.assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)
    ours, theirs = (t.optimizers[0].state_dict() for t in (trainer, straight))
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    assert {state[MASTER].dtype for state in ours["state"].values()} == {torch.float32}


def test_a_step_that_is_not_finite_moves_no_master(make_pair: SmallRuns, tmp_path: Path) -> None:
    class Poison(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            if trainer.global_step == 1:
                next(module.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]

    settings = Optimization(learning_rate=0.01, fused=True, master_weights=True)
    module, data = make_pair("tuning", optimizer=settings, network=LOW)
    trainer = small_trainer(4, callbacks=[Poison()], default_root_dir=str(tmp_path))
    with pytest.raises(ValueError, match="gradient norm"):
        trainer.fit(module, datamodule=data)
    states = trainer.optimizers[0].state_dict()["state"].values()
    assert all(value.isfinite().all() for state in states for value in state.values())
    assert all(weight.isfinite().all() for weight in module.parameters())


def test_what_has_no_use_for_masters_is_rejected(make_pair: SmallRuns) -> None:
    with pytest.raises(ValueError, match=r"all of these are in float32 .* set network.dtype to bfloat16"):
        build_optimizer(MASTERS, layers(torch.float32))
    reject_optimizer(MASTERS, DDPStrategy())
    with pytest.raises(ValueError, match="for one device and ddp: leave it out, and ShardedStrategy keeps float32"):
        reject_optimizer(MASTERS, ShardedStrategy())
    with pytest.raises(ValueError, match=r"for optimizers of torch\.optim, got transformers"):
        reject_optimizer(
            Optimization(algorithm="transformers.optimization.Adafactor", master_weights=True), DDPStrategy()
        )
