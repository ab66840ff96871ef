"""Optimizers by name: built with the project's groups, resumed from their states, rejected where they cannot train."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, SingleDeviceStrategy
from small_runs import SmallRuns, small_trainer, weights_of
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig

from crosstask.lightning_modules.optimization import Optimization, scheduler
from crosstask.lightning_modules.optimizer_classes import (
    build_optimizer,
    optimizer_class,
    reject_optimizer,
    set_averages,
)
from crosstask.lightning_modules.resumed_settings import group_settings, restore_settings
from crosstask.lightning_modules.sharding.strategies import ShardedStrategy

TRAINING = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop", "Rprop")


def small_model() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_attention_heads": 2}
    config = OPTConfig(vocab_size=30, num_hidden_layers=1, max_position_embeddings=16, dropout=0.0, **shape)
    return AutoModelForCausalLM.from_config(config)


def descend(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    ids, losses = torch.arange(4, 16)[None], []
    for _ in range(steps):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("algorithm", [*TRAINING, "SGD", "ASGD"])
def test_every_optimizer_of_torch_descends_and_resumes(algorithm: str) -> None:
    rate = {"Adadelta": 5.0, "SGD": 0.1, "ASGD": 0.1}.get(algorithm, 0.01)
    settings = Optimization(learning_rate=rate, algorithm=algorithm)
    model = small_model()
    optimizer = build_optimizer(settings, model)
    losses = descend(model, optimizer, 3)
    assert losses[2] < losses[0]

    resumed = small_model()
    resumed.load_state_dict(model.state_dict())
    loaded = build_optimizer(settings, resumed)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert descend(resumed, loaded, 2) == descend(model, optimizer, 2)


def test_muon_steps_along_matrices_of_blocks_alone() -> None:
    model = small_model()
    settings = Optimization(learning_rate=0.01, algorithm="Muon", weight_decay=0.1, options={"momentum": 0.9})
    optimizer = build_optimizer(settings, model)
    hidden = [group for group in optimizer.param_groups if group["hidden"]]
    assert {id(value) for group in hidden for value in group["params"]} == {
        id(part.weight) for name, part in model.named_modules() if isinstance(part, nn.Linear) and "layers" in name
    }
    assert {group["momentum"] for group in hidden} == {0.9}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))

    before = {name: value.clone() for name, value in model.named_parameters()}
    descend(model, optimizer, 1)
    name = "model.decoder.layers.0.fc1.weight"
    moved = model.get_parameter(name) - before[name] * (1 - 0.01 * 0.1)
    values = torch.linalg.svdvals(moved) / (0.01 * 0.2 * 16**0.5)  # the step's scale for a matrix of 16 x 8
    assert 0.6 < values.max() < 1.3  # of a gradient of any size


def test_schedule_free_weights_between_steps_are_averages() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    settings = Optimization(learning_rate=0.01, algorithm="schedulefree.AdamWScheduleFree", schedule="constant")
    model = small_model()
    optimizer = build_optimizer(settings, model)
    assert isinstance(optimizer, schedulefree.AdamWScheduleFree)
    descend(model, optimizer, 3)
    name = "model.decoder.layers.0.fc1.weight"
    stepped = model.get_parameter(name).clone()
    set_averages([optimizer], training=False)
    assert not torch.equal(stepped, model.get_parameter(name))
    set_averages([optimizer], training=True)
    torch.testing.assert_close(model.get_parameter(name), stepped)


def test_schedule_free_runs_train_weights_and_leave_their_averages(small_runs: SmallRuns) -> None:
    """Gradients are of the training weights; validation, checkpoints and exports read the averages."""
    pytest.importorskip("schedulefree")
    settings = Optimization(learning_rate=0.01, algorithm="schedulefree.AdamWScheduleFree", schedule="constant")
    modes: dict[str, list[bool]] = {"training": [], "saved": []}

    class Modes(L.Callback):
        def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
            modes["training"].append(trainer.optimizers[0].param_groups[0]["train_mode"])

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            modes["saved"].append(trainer.optimizers[0].param_groups[0]["train_mode"])

    module, data = small_runs("tuning", optimizer=settings)
    small_trainer(3, callbacks=[Modes()]).fit(module, datamodule=data)
    assert modes == {"training": [True] * 3, "saved": [False] * 3}


def test_schedule_free_training_resumes_from_averages() -> None:
    pytest.importorskip("schedulefree")
    settings = Optimization(learning_rate=0.01, algorithm="schedulefree.AdamWScheduleFree", schedule="constant")
    model, resumed = small_model(), small_model()
    optimizer, loaded = build_optimizer(settings, model), build_optimizer(settings, resumed)
    schedule = scheduler(loaded, settings, total=5)
    fresh = group_settings(loaded)
    descend(model, optimizer, 3)
    set_averages([optimizer], training=False)  # as between steps, where checkpoints are written
    resumed.load_state_dict(model.state_dict())
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    restore_settings(loaded, schedule, fresh)
    for each in (optimizer, loaded):
        set_averages([each], training=True)
    assert descend(resumed, loaded, 2) == descend(model, optimizer, 2)


@pytest.mark.parametrize("kind", ["tuning", "lora"])
@pytest.mark.parametrize("algorithm", ["Muon", "schedulefree.AdamWScheduleFree", "bitsandbytes.optim.AdamW8bit"])
def test_an_interrupted_run_continues_as_if_it_had_not_been(
    algorithm: str, kind: str, small_runs: SmallRuns, tmp_path: Path
) -> None:
    package = algorithm.partition(".")[0]
    if package != "Muon":
        pytest.importorskip(package)
    schedule: Any = "constant" if package == "schedulefree" else "wsd"
    settings = Optimization(learning_rate=0.01, weight_decay=0.1, algorithm=algorithm, schedule=schedule)

    def fitted(steps: int, **options: Any) -> tuple[Any, Any]:
        module, data = small_runs(kind, optimizer=settings, total_steps=4)
        trainer = small_trainer(steps, gradient_clip_val=0.1, accumulate_grad_batches=2)
        trainer.fit(module, datamodule=data, **options)
        return module, trainer

    whole, _ = fitted(4)
    fitted(2)[1].save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = fitted(4, ckpt_path=str(tmp_path / "two.ckpt"))
    torch.testing.assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)


def test_eight_bit_adam_keeps_its_moments_in_bytes() -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    model = nn.Linear(128, 64)
    optimizer = build_optimizer(Optimization(learning_rate=0.01, algorithm="bitsandbytes.optim.AdamW8bit"), model)
    model(torch.ones(4, 128)).square().sum().backward()
    optimizer.step()
    assert optimizer.state[model.weight]["state1"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("LBFGS", "it computes the loss several times in a step; set optimizer.algorithm to AdamW"),
        ("torch.nn.Linear", "torch.nn.Linear is no optimizer of torch"),
        ("AdamV", "cannot be imported"),
    ],
)
def test_what_is_no_optimizer_for_language_models_is_rejected(algorithm: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        optimizer_class(algorithm)


def test_settings_that_an_algorithm_lacks_are_rejected() -> None:
    for settings, said in (
        (Optimization(algorithm="Rprop", weight_decay=0.1), "Rprop has no weight_decay"),
        (Optimization(algorithm="RMSprop", fused=True), "RMSprop has no fused"),
        (Optimization(algorithm="SGD", options={"momentums": 0.9}), "SGD has no momentums; its arguments are"),
    ):
        with pytest.raises(ValueError, match=said):
            build_optimizer(settings, small_model())


def test_strategies_reject_what_they_cannot_carry() -> None:
    reject_optimizer(Optimization(algorithm="Muon"), SingleDeviceStrategy())
    reject_optimizer(Optimization(algorithm="Muon"), ShardedStrategy())
    with pytest.raises(ValueError, match="Muon needs whole matrices, and DeepSpeedStrategy flattens them: use ddp"):
        reject_optimizer(Optimization(algorithm="Muon"), object.__new__(DeepSpeedStrategy))


@pytest.mark.parametrize("package", ["schedulefree", "bitsandbytes"])
def test_optimizers_of_other_packages_are_rejected_in_a_sentence(package: str) -> None:
    pytest.importorskip(package)
    path = {"schedulefree": "schedulefree.SGDScheduleFree", "bitsandbytes": "bitsandbytes.optim.AdamW8bit"}[package]
    if package == "bitsandbytes":
        with pytest.raises(ValueError, match="steps on whole parameters, and ShardedStrategy shards them"):
            reject_optimizer(Optimization(algorithm=path), ShardedStrategy())
        return
    with pytest.raises(ValueError, match=r"needs no schedule: set optimizer\.schedule to constant"):
        reject_optimizer(Optimization(algorithm=path), SingleDeviceStrategy())
    with pytest.raises(ValueError, match="DeepSpeedStrategy does not average weights"):
        reject_optimizer(Optimization(algorithm=path, schedule="constant"), object.__new__(DeepSpeedStrategy))
