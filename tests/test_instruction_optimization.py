"""Differentiable instruction optimization: the loop of two levels against one written out by hand, and its data."""

import copy
import csv
import os
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

import crosstask
from crosstask.cli import CrosstaskCLI, main, run
from crosstask.datamodules import NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.bilevel.exemplars import ExemplarPools, encode_candidates, exemplar_texts
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.bilevel.presets import choices
from crosstask.datamodules.bilevel.row_chunks import halves, inner_chunks, outer_chunks, take_rows
from crosstask.datamodules.bilevel.stream import BilevelBatch, LanguageRows, cut_source
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.rendering.tokenization import tokenize_pair
from crosstask.datamodules.schema import Example, Task
from crosstask.lightning_modules.hypergradients import Hypergradient, hypergradient
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instructed_loss import instructed_loss, reader
from crosstask.lightning_modules.instructions.instruction_kinds import Representation, build_instruction
from crosstask.lightning_modules.instructions.outer_methods import OuterSettings
from crosstask.lightning_modules.losses import target_loss

CONFIGS = Path(crosstask.__file__).parent / "configs"
INNER_STEPS = 3
TASK = Task("bench", "task", "category", "Write the number behind the word, and say it as a word.")
T5 = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
DATA = {
    "row_length": 160,
    "inner_steps": INNER_STEPS,
    "inner_rows": 2,
    "outer_rows": 4,
    "instruction_length": 4,
    "pair_length": 32,
    "train_examples": 8,
    "validation_examples": 1,
    "test_examples": 2,
    "max_new_tokens": 4,
    "evaluation_tokens": 2048,
}
OUTER = {field.name for field in fields(OuterSettings)} - {"learning_rate", "weight_decay"}
Make = Callable[..., tuple[InstructionOptimizationModule, InstructionOptimizationDataModule]]


@pytest.fixture
def make(toybench: Path, tiny_model: dict[str, Any]) -> Make:
    """Module and datamodule that agree with each other; arguments go to whichever has them."""

    def make(seq2seq: bool = False, data: dict[str, Any] | None = None, **arguments: Any) -> Any:
        tokenizer = str(toybench / "tokenizer")
        given = {**DATA, "split": CategorySplit(4), "target_length": 24 if seq2seq else None, **(data or {})}
        shared = {name: given[name] for name in ("row_length", "inner_steps", "instruction_length")}
        fields = T5 if seq2seq else {**tiny_model, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        options: dict[str, Any] = {"config": fields, "total_steps": 7, "warmup_steps": 1, "learning_rate": 1e-2}
        outer: dict[str, Any] = {"learning_rate": 1e-2, "calibrate_every": 0, "gamma": 0.1}
        outer |= {name: arguments.pop(name) for name in OUTER if name in arguments}
        options |= {"outer": OuterSettings(**outer), "representation": Representation(width=8)}
        options |= {"preset": given.get("preset", "paper"), "candidates": given.get("candidates", 0), **shared}
        L.seed_everything(0, verbose=False)
        return (
            InstructionOptimizationModule(tokenizer, **{**options, **arguments}),
            InstructionOptimizationDataModule(NaturalInstructions(str(toybench)), tokenizer, **given),
        )

    return make


def trainer(steps: int = 7, **options: Any) -> L.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": bool(options.get("callbacks")), "limit_val_batches": 0}
    return L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, **{**quiet, **options})


class Start(L.Callback):
    """A copy of model and instruction from before the first step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, InstructionOptimizationModule)
        self.model = copy.deepcopy(pl_module.language_model)
        self.instruction = copy.deepcopy(pl_module.instruction)


def by_hand(
    start: Start, batches: list[BilevelBatch], preset: str, method: str = "neumann"
) -> tuple[list[Tensor], list[Tensor], int]:
    """The algorithm in a page, by double backward: theta, phi and phi's steps at the end."""
    model, instruction = copy.deepcopy(start.model), copy.deepcopy(start.instruction)
    assert instruction is not None
    theta, phi = list(model.parameters()), list(instruction.parameters())
    released, gamma = preset == "released_code", 0.1
    horizon = len(batches) if released else len(batches) // INNER_STEPS
    theta_optimizer, phi_optimizer = torch.optim.Adam(theta, lr=1e-2), torch.optim.Adam(phi, lr=1e-2)

    def inner_loss(batch: Any) -> Tensor:
        made = instruction(batch.inputs, reader(model))
        return instructed_loss(model, made, batch.rows).sum / batch.rows.step_targets

    def step_phi(batch: BilevelBatch, done: int) -> None:
        inner = batch.inner if released else batch.curvature
        v = torch.autograd.grad(target_loss(model, batch.outer).sum / batch.outer.step_targets, theta)
        f = torch.autograd.grad(inner_loss(inner), theta, create_graph=True)

        def bend(direction: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(f, theta, grad_outputs=direction, retain_graph=True)

        terms, p = v, v
        for _ in range(0 if preset == "fast" else 1):
            terms = tuple(a - gamma * b for a, b in zip(terms, bend(terms), strict=True))
            p = tuple(a + b for a, b in zip(p, terms, strict=True))
        p = tuple(gamma * a for a in p) if method == "neumann" else other_direction(method, v, bend)
        for parameter, gradient in zip(phi, torch.autograd.grad(f, phi, grad_outputs=[-a for a in p]), strict=True):
            parameter.grad = gradient
        if released:
            torch.nn.utils.clip_grad_norm_(phi, 1.0)
        phi_optimizer.param_groups[0]["lr"] = 1e-2 * (horizon - done) / (horizon + 1)
        phi_optimizer.step()

    def other_direction(method: str, v: Sequence[Tensor], bend: Callable[..., Any]) -> tuple[Tensor, ...]:
        """Each method with M = 1 (0 of Adam's series), gamma = 0.1 and damping = 5, written out."""
        if method == "identity":
            return tuple(0.2 * a for a in v)
        if method == "conjugate_gradient":
            bent = [b + 5 * a for a, b in zip(v, bend(v), strict=True)]
            squares = [sum((a * b).sum() for a, b in zip(v, other, strict=True)) for other in (v, bent)]
            return tuple(squares[0] / squares[1] * a for a in v)
        states = [theta_optimizer.state[parameter] for parameter in theta]
        lr = theta_optimizer.param_groups[0]["lr"]
        if method == "sama":
            # The update lr m^ / (sqrt(s^) + eps), differentiated with respect to the gradient in m and s.
            found = []
            for parameter, a, state in zip(theta, v, states, strict=True):
                steps, g = state["step"], parameter.grad.clone().requires_grad_()  # type: ignore[union-attr]
                m = state["exp_avg"] + 0.1 * (g - g.detach())
                s = state["exp_avg_sq"] + 0.001 * (g.square() - g.detach().square())
                update = lr * m / (1 - 0.9**steps) / ((s / (1 - 0.999**steps)).sqrt() + 1e-8)
                slope = torch.autograd.grad(update.sum(), g)[0]
                found.append(a * slope.masked_fill(state["exp_avg_sq"] == 0, 0.0))
            return tuple(found)
        sizes = [lr / ((x["exp_avg_sq"] / (1 - 0.999 ** x["step"])).sqrt() + 1e-8) for x in states]
        sizes = [a.masked_fill(x["exp_avg_sq"] == 0, 0.0) for a, x in zip(sizes, states, strict=True)]
        return tuple(a * b for a, b in zip(sizes, v, strict=True))

    def step_theta(batch: BilevelBatch, done: int) -> None:
        theta_optimizer.zero_grad()
        phi_optimizer.zero_grad()
        inner_loss(batch.inner).backward()
        torch.nn.utils.clip_grad_norm_([*theta, *phi] if released else theta, 1.0)
        total = len(batches)
        theta_optimizer.param_groups[0]["lr"] = 1e-2 * (1.0 if done == 0 else (total - done) / total)
        theta_optimizer.step()

    moves = 0
    with sdpa_kernel(SDPBackend.MATH):
        for step, batch in enumerate(batches):
            if released and batch.outer is not None:
                step_phi(batch, moves)
            step_theta(batch, step)
            if not released and batch.outer is not None:
                step_phi(batch, moves)
            moves += batch.outer is not None
    return [p.detach() for p in theta], [p.detach() for p in phi], moves


@pytest.mark.parametrize("preset", ["paper", "released_code", "fast"])
@pytest.mark.parametrize(("seq2seq", "instruction"), [(False, "direct_embedder"), (True, "instance_extractor")])
def test_the_loop_is_the_one_written_out_by_hand(make: Make, preset: str, seq2seq: bool, instruction: str) -> None:
    data: dict[str, Any] = {"preset": preset, "reserve": 40 if preset == "released_code" else None}
    if instruction == "instance_extractor":
        data |= {"candidates": 3, "instruction_length": 24}
    exact = {"dtype": "float64", "dropout": 0.0 if seq2seq else None, "curvature": "exact"}
    module, datamodule = make(seq2seq, data, instruction=instruction, **exact)
    start = Start()
    fitted = trainer(precision="64-true", callbacks=[start], enable_checkpointing=False)
    fitted.fit(module, datamodule)
    assert (fitted.global_step, module.outer_step) == (7, 2)  # theta's steps alone are counted

    stream = iter(datamodule.train_dataloader())
    batches = [next(stream) for _ in range(7)]
    theta, phi, moves = by_hand(start, batches, preset)
    assert moves == 2
    # T5 computes its norms in float32, and Adam passes on the sign of what is left of tiny gradients.
    tolerance = {"rtol": 1e-3, "atol": 1e-5} if seq2seq else {"rtol": 1e-7, "atol": 1e-9}
    for found, expected in zip([*module.theta, *module.phi], [*theta, *phi], strict=True):
        assert_close(found.detach(), expected, **tolerance)

    if preset != "released_code":  # one term of the series more or less can be seen
        _, other, _ = by_hand(start, batches, "fast" if preset == "paper" else "paper")
        assert max((a - b).abs().max().item() for a, b in zip(other, phi, strict=True)) > 100 * tolerance["atol"]


METHODS = ["identity", "conjugate_gradient", "adam_preconditioned", "sama"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_the_one_written_out_by_hand(make: Make, method: str) -> None:
    options: dict[str, Any] = {"damping": 5.0 * (method == "conjugate_gradient")}
    if method == "adam_preconditioned":  # rows that were hardly touched have huge steps: its series grows at once
        options["hessian_products"] = 0
    module, datamodule = make(method=method, dtype="float64", curvature="exact", **options)
    start = Start()
    trainer(precision="64-true", callbacks=[start], enable_checkpointing=False).fit(module, datamodule)
    stream = iter(datamodule.train_dataloader())
    batches = [next(stream) for _ in range(7)]
    _, phi, _ = by_hand(start, batches, "paper", method)
    _, other, _ = by_hand(start, batches, "paper")
    for found, expected, unlike in zip(module.phi, phi, other, strict=True):
        # SAMA divides by the third power of what tiny gradients leave, and norms are computed in float32.
        tolerance = {"rtol": 1e-3, "atol": 1e-4} if method == "sama" else {"rtol": 1e-6, "atol": 1e-8}
        assert_close(found.detach(), expected, **tolerance)
        assert not torch.allclose(found.detach(), unlike, rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", ["neumann", *METHODS])
def test_every_method_runs_by_finite_differences(make: Make, method: str) -> None:
    products = 0 if method == "adam_preconditioned" else None
    gamma = "auto" if method == "neumann" else 0.1
    module, datamodule = make(method=method, gamma=gamma, hessian_products=products)
    fitted = trainer()
    fitted.fit(module, datamodule)
    assert module.outer_step == 2
    assert 0 < fitted.callback_metrics["train/hypergradient_norm"] < float("inf")


def test_gamma_auto_is_kept_between_searches_and_in_checkpoints(make: Make, tmp_path: Path) -> None:
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)
    module, datamodule = make(gamma="auto")
    fitted = trainer(7, callbacks=[saved])
    fitted.fit(module, datamodule)
    assert module.outer_level is not None
    largest = abs(fitted.callback_metrics["train/largest_curvature"].item())
    assert module.outer_level.gamma == pytest.approx(0.9 / largest)

    resumed, datamodule = make(gamma="auto")
    trainer(7).fit(resumed, datamodule, ckpt_path=str(tmp_path / "epoch=0-step=4.ckpt"))
    assert resumed.outer_level is not None
    assert resumed.outer_level.gamma == module.outer_level.gamma
    for found, expected in zip(state(resumed), state(module), strict=True):
        assert torch.equal(found, expected)


def test_the_hessian_hardly_matters_at_the_papers_gamma(make: Make) -> None:
    """Why the preset `fast` leaves it out, and what the logged ratio tells."""
    norms = {}
    for preset in ("paper", "fast"):
        module, datamodule = make(data={"preset": preset}, gamma=None)
        fitted = trainer(INNER_STEPS)
        fitted.fit(module, datamodule)
        norms[preset] = fitted.callback_metrics["train/hypergradient_norm"].item()
        assert fitted.callback_metrics["train/curvature_ratio"] < 1e-3
    assert norms["fast"] == pytest.approx(norms["paper"], rel=1e-3)
    assert 0 < norms["fast"] < 1e-4  # gamma stays a factor of it: Adam's eps of 1e-8 is near


def state(module: InstructionOptimizationModule) -> list[Tensor]:
    """Everything that training moves: theta, phi and the moments of phi's optimizer."""
    assert module.outer_level is not None
    moments = [value for each in module.outer_level.optimizer.state.values() for value in each.values()]
    return [tensor.detach() for tensor in [*module.theta, *module.phi, *moments]]


@pytest.mark.parametrize(("preset", "late"), [("paper", False), ("paper", True), ("released_code", False)])
def test_a_run_resumed_between_steps_of_phi_goes_on_as_if_undisturbed(
    make: Make, preset: str, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is on, and the radius of the finite differences is looked for: both are the same after resuming.

    Sharded strategies restore a checkpoint when the optimizers are there already (`late`), others before.
    """
    monkeypatch.setattr(L.pytorch.strategies.SingleDeviceStrategy, "restore_checkpoint_after_setup", late)
    data: dict[str, Any] = {"preset": preset, "candidates": 3, "instruction_length": 24}
    data |= {"reserve": 40 if preset == "released_code" else None}
    options: dict[str, Any] = {"instruction": "direct_extractor", "calibrate_every": 3}
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)
    undisturbed, datamodule = make(True, data, **options)
    trainer(11, callbacks=[saved]).fit(undisturbed, datamodule)

    resumed, datamodule = make(True, data, **options)
    fitted = trainer(11)
    fitted.fit(resumed, datamodule, ckpt_path=str(tmp_path / "epoch=0-step=4.ckpt"))
    assert (fitted.global_step, resumed.outer_step) == (11, 3)
    assert resumed.outer_level is not None
    assert undisturbed.outer_level is not None
    assert resumed.outer_level.radius == undisturbed.outer_level.radius
    for found, expected in zip(state(resumed), state(undisturbed), strict=True):
        assert torch.equal(found, expected)
    # Nor does it hold because nothing happened after step 4.
    before = torch.load(tmp_path / "epoch=0-step=4.ckpt", weights_only=False)
    assert not torch.equal(before["state_dict"]["instruction.logits"], undisturbed.phi[0])


def test_learnable_instructions_exist_in_training_alone(make: Make, tmp_path: Path) -> None:
    module, datamodule = make()
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=7)
    trainer(7, callbacks=[saved], limit_val_batches=1.0).fit(module, datamodule)
    assert torch.load(tmp_path / "epoch=0-step=7.ckpt", weights_only=False)["state_dict"].keys() > {"instruction.table"}

    plain, datamodule = make()
    tested = trainer(7)
    (scores,) = tested.test(plain, datamodule, ckpt_path=str(tmp_path / "epoch=0-step=7.ckpt"), verbose=False)
    assert 0 <= scores["test/rouge_l"] <= 1
    assert plain.instruction is None
    for found, expected in zip(plain.theta, module.theta, strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(RuntimeError, match="exists in training alone"):
        plain.phi  # noqa: B018


def test_phis_schedule_ends_with_its_own_steps_or_with_thetas(make: Make) -> None:
    rates = {}
    for preset in ("paper", "released_code"):
        module, datamodule = make(data={"preset": preset, "reserve": 40}, total_steps=6)
        trainer(6).fit(module, datamodule)
        assert module.outer_level is not None
        rates[preset] = module.outer_level.schedule.get_last_lr()[0]
    assert rates["paper"] == 0.0  # after 2 of its 2 steps
    assert rates["released_code"] == pytest.approx(1e-2 * 4 / 7)  # after 2 of theta's 6


def test_halves_of_the_outer_batch_tell_how_noisy_the_hypergradient_is(make: Make) -> None:
    module, datamodule = make(noise_every=1)
    fitted = trainer(INNER_STEPS)
    fitted.fit(module, datamodule)
    assert -1 <= fitted.callback_metrics["train/hypergradient_cosine"] <= 1
    for seq2seq in (False, True):
        module, datamodule = make(seq2seq)
        datamodule.setup("fit")
        rows = datamodule.bilevel_plan.batch(INNER_STEPS - 1, Replicas()).outer  # type: ignore[union-attr]
        assert rows is not None
        module.configure_model()
        model = module.language_model.eval()
        whole, *parts = (
            target_loss(model, part).sum for part in (rows, take_rows(rows, [2]), take_rows(rows, [3, 0, 1]))
        )
        assert_close(sum(parts), whole)
        assert [len(half.input_ids) for half in halves(rows)] == [2, 2]
        with pytest.raises(ValueError, match="compares halves of the outer batch, and a replica's has 1 row"):
            halves(take_rows(rows, [0]))


@pytest.mark.parametrize("seq2seq", [False, True])
def test_chunks_of_rows_sum_to_the_whole_batch(make: Make, seq2seq: bool) -> None:
    """The losses of the parts are those of the whole, and no part is wider than it must be."""
    module, datamodule = make(seq2seq, {"candidates": 3, "instruction_length": 24}, instruction="instance_extractor")
    datamodule.setup("fit")
    module.configure_model()
    batch = datamodule.bilevel_plan.batch(INNER_STEPS - 1, Replicas())  # type: ignore[union-attr]
    model = module.language_model.eval()
    torch.manual_seed(0)
    learned = build_instruction(module.instruction_settings, model, tasks=99, vocabulary=4096)

    def inner_loss(part: Any) -> Tensor:
        return instructed_loss(model, learned(part.inputs, reader(model)), part.rows).sum

    outer, inner = outer_chunks(batch.outer, 2), inner_chunks(batch.curvature, 3)
    assert [len(part.input_ids) for part in outer] == [2, 2]
    assert [len(part.rows.input_ids) for part in inner] == [3, 1]
    assert outer[1].input_ids.shape[1] < outer[0].input_ids.shape[1] == batch.outer.input_ids.shape[1]
    assert_close(sum(target_loss(model, part).sum for part in outer), target_loss(model, batch.outer).sum)
    assert_close(sum(inner_loss(part) for part in inner), inner_loss(batch.curvature))


def test_a_hessian_that_changes_nothing_is_looked_at_between_searches_only(make: Make) -> None:
    for gamma, terms, ratio in ((1e-5, 1.0, 0.0), (0.3, 2.0, 1e-3)):
        module, datamodule = make(gamma=gamma, calibrate_every=2)
        fitted = trainer()
        fitted.fit(module, datamodule)
        assert module.outer_step == 2
        assert fitted.callback_metrics["train/terms"] == terms
        assert fitted.callback_metrics["train/curvature_ratio"] >= ratio


def test_a_growing_series_is_told(make: Make) -> None:
    module, datamodule = make(gamma=1e5)
    with pytest.warns(UserWarning, match="the series of the hypergradient grew"):
        trainer(INNER_STEPS).fit(module, datamodule)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"inner_steps": 0}, r"inner_steps \(K\) must be at least 1, got 0"),
        ({"hessian_products": -1}, r"hessian_products \(M\) must be 0 or more .* got -1"),
        ({"gamma": 0.0}, "gamma positive"),
        ({"preset": "code"}, "preset must be one of"),
        ({"gamma": "auto", "method": "sama"}, "gamma auto finds the step of neumann's series; sama"),
        ({"method": "conjugate_gradient", "hessian_products": 0}, "conjugate_gradient needs iterations"),
        ({"damping": 1.0}, "damping = 1.0 is of conjugate_gradient; neumann has none"),
        ({"method": "adam_preconditioned", "when": "before", "inner_steps": 1}, "before any theta step"),
        ({"method": "sama", "when": "before"}, "set outer.when to after"),
        ({"curvature": "exact", "compile": True}, "compiled blocks do not allow: set compile to false"),
    ],
)
def test_impossible_settings_of_the_module(make: Make, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**arguments)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"outer_rows": 0}, "outer_rows must be at least 1, got 0"),
        ({"reserve": 3}, "3 columns that the text leaves free must hold the instruction of 4"),
        (
            {"candidates": 8},
            "has 8 training instances, and 8 exemplars are to be drawn .* one in place of the instance",
        ),
        ({"candidates": 9, "exclude_self": False}, "has 8 training instances, and 9 exemplars"),
        ({"split": CategorySplit(90)}, "takes 90 of the"),
        ({"inner_steps": 8}, "set trainer.max_steps to at least inner_steps = 8"),
    ],
)
def test_impossible_settings_of_the_data(make: Make, data: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trainer().fit(*make(data=data, inner_steps=3))


def test_what_finite_differences_and_the_loop_cannot_do_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"finite differences need float32 weights, and the model's are torch.bfloat16"
    ):
        trainer().fit(*make(dtype="bfloat16"))
    with pytest.raises(ValueError, match="an extractor needs candidates"):
        trainer().fit(*make(instruction="direct_extractor"))
    module, datamodule = make()
    datamodule.inner_steps = 2
    with pytest.raises(ValueError, match="inner_steps is 3 in the module and 2 in the datamodule"):
        trainer().fit(module, datamodule)
    monkeypatch.setattr("crosstask.lightning_modules.instructions.fit_checks.SingleDeviceStrategy", int)
    with pytest.raises(ValueError, match=r"one device, with DDP or with FSDP2 .* got SingleDeviceStrategy"):
        trainer().fit(*make())


def planned(make: Make, seq2seq: bool = False, **data: Any) -> InstructionOptimizationDataModule:
    _, datamodule = make(seq2seq, data)
    datamodule.setup("fit")
    return datamodule


def texts(datamodule: InstructionOptimizationDataModule, rows: LanguageRows) -> list[str]:
    tokenizer = datamodule.preparation.tokenizer
    return [tokenizer.decode(ids[ids != tokenizer.pad_token_id]) for ids in rows.input_ids]


def test_a_batch_reads_as_it_should(make: Make) -> None:
    datamodule = planned(
        make,
        prompt=TkInstructPrompt(positive_examples=1),
        inner_prompt=TkInstructPrompt(positive_examples=0, definition=False),
        candidates=3,
        instruction_length=40,
        pair_length=60,
    )
    plan, tokenizer = datamodule.bilevel_plan, datamodule.preparation.tokenizer
    assert plan is not None
    assert [plan.batch(step, Replicas()).outer is not None for step in range(6)] == [False, False, True] * 2
    batch = plan.batch(INNER_STEPS - 1, Replicas())
    assert batch.outer is not None
    assert batch.curvature is not None
    assert len(batch.curvature.rows.input_ids) == len(batch.outer.input_ids) == 4
    for text in texts(datamodule, batch.outer):
        assert text.startswith("Definition: ")
        assert text.count("Positive Example") == 1
    definitions = {task.definition: task.name for task, _ in plan.outer}
    assert all(
        text.removeprefix("Definition: ").split("\n\n")[0] in definitions for text in texts(datamodule, batch.outer)
    )
    inner = batch.inner
    assert inner.inputs.candidate_ids is not None
    for row, text in enumerate(texts(datamodule, inner.rows)):
        task = plan.inner[int(inner.inputs.tasks[row])]
        source, target = text.removesuffix("</s>").split("\nOutput: ")
        asked = source.removeprefix("Now complete the following example -\nInput: ")
        (example,) = [e for e in task.examples if e.targets[0] == target and asked.startswith(e.input)]
        z = tokenizer.decode(inner.inputs.pair_ids[row][inner.inputs.pair_mask[row].bool()])
        assert z == f"Input: {example.input} Output: {target}"  # the instance's own answer is in z (Eq. 4)
        solved = {"".join(exemplar_texts(e)) for e in task.examples if e != example}
        shown = {tokenizer.decode(ids) for ids in inner.inputs.candidate_ids[row]}
        assert {text.replace("<pad>", "") for text in shown} <= solved
        assert len(shown) == 3
    assert datamodule.inner_tasks == [task.name for task, _ in plan.inner]


def test_no_instance_is_both_trained_and_evaluated(make: Make) -> None:
    datamodule = planned(make, validation_examples=10)
    datamodule.setup("test")
    plan = datamodule.bilevel_plan
    assert plan is not None
    trained = {(e.task, e.id) for task in [*plan.inner, *plan.outer] for e in task.examples}
    for stage in ("validation", "test"):
        asked = {(e.task, e.id) for e in datamodule.evaluation_examples(stage)}  # type: ignore[arg-type]
        assert not trained & asked
    by_task = [e.task for e in datamodule.evaluation_examples("validation")]
    assert {by_task.count(task.name) for task, _ in [*plan.inner, *plan.outer]} == {10}  # of every training task


def test_batches_are_a_function_of_seed_and_step_and_replicas_share_them(make: Make) -> None:
    plan = planned(make, seq2seq=True).bilevel_plan
    again = planned(make, seq2seq=True).bilevel_plan
    other = planned(make, seq2seq=True, seed=1).bilevel_plan
    assert plan is not None
    assert again is not None
    assert other is not None
    plan.batch(40, Replicas())  # another position first, in another epoch
    whole, halves = plan.batch(5, Replicas()), [again.batch(5, Replicas(2, rank)) for rank in range(2)]
    for name in ("inner", "curvature"):
        rows = getattr(whole, name).inputs.tasks
        parts = [getattr(half, name).inputs.tasks for half in halves]
        assert torch.equal(torch.stack(parts, dim=1).flatten(), rows)
    assert whole.outer is not None
    assert {half.outer.step_targets for half in halves if half.outer} == {whole.outer.step_targets}
    assert int((whole.outer.targets != -100).sum()) == whole.outer.step_targets
    assert other.batch(5, Replicas()).inner.inputs.tasks.tolist() != whole.inner.inputs.tasks.tolist() or (
        other.batch(5, Replicas()).outer.input_ids.tolist() != whole.outer.input_ids.tolist()  # type: ignore[union-attr]
    )
    size = sum(len(task.examples) for task, _ in [(t, 0) for t in plan.inner])
    seen = [plan._inner_order.at(place)[0] for place in range(2 * size)]
    assert sorted(seen[:size]) == sorted(seen[size:]) == list(range(size))  # an epoch has each instance once
    assert seen[:size] != seen[size:]


EXAMPLES = [Example("task", str(number), number, f"in {number}", (f"out {number}",)) for number in range(6)]


def test_candidates_of_a_task_and_of_an_instance() -> None:
    shared = ExemplarPools(3, "task", exclude_self=False)
    assert len({tuple(e.id for e in shared.draw(EXAMPLES, own) if e) for own in range(6)}) == 1
    drawn = [shared.draw(EXAMPLES, own) for own in range(6)]
    assert any(EXAMPLES[own] in drawn[own] for own in range(6))  # its own answer: what exclude_self prevents
    for of in ("task", "instance"):
        pools = ExemplarPools(3, of)  # type: ignore[arg-type]
        drawn = [pools.draw(EXAMPLES, own) for own in range(6)]
        assert all(EXAMPLES[own] not in drawn[own] for own in range(6))
        assert all(len({e.id for e in row if e}) == 3 for row in drawn)
        assert drawn == [pools.draw(EXAMPLES, own) for own in range(6)]
    assert len({tuple(e.id for e in row if e) for row in drawn}) > 3  # each instance its own
    assert ExemplarPools(3, seed=1).draw(EXAMPLES, 0) != ExemplarPools(3).draw(EXAMPLES, 0)


def test_blank_candidates_are_as_long_as_the_exemplar(tokenizer: Any) -> None:
    rows = [ExemplarPools(3, blanks=True).draw(EXAMPLES, own) for own in range(2)]
    assert [[e is None for e in row] for row in rows] == [[True, True, False]] * 2
    ids, mask = encode_candidates(tokenizer, rows, longest=40)
    assert (ids[:, :2] == tokenizer.pad_token_id).all()
    assert (mask[:, 0] == mask[:, 2]).all()
    assert mask.any()
    assert tokenizer.decode(ids[0, 2][mask[0, 2].bool()]) == "".join(exemplar_texts(rows[0][2]))  # type: ignore[arg-type]


def test_a_long_source_gives_way_on_the_side_that_was_chosen(tokenizer: Any) -> None:
    prompt = TkInstructPrompt(positive_examples=0)
    (document,) = tokenize_pair(tokenizer, [prompt(TASK, EXAMPLES[0], random.Random(0))])
    for keep_end, kept in ((True, "\nOutput:"), (False, "Definition: ")):
        cut = cut_source(document, 12, keep_end=keep_end, pair=True)
        source = tokenizer.decode(cut.input_ids[: cut.n_source])
        assert cut.n_source == 12
        assert source.endswith("</s>")
        assert kept in source
    assert cut_source(document, 400, keep_end=True, pair=True) is document


def test_the_reserve_leaves_room_for_the_instruction(make: Make) -> None:
    for seq2seq in (False, True):
        datamodule = planned(make, seq2seq, row_length=40, instruction_length=8, max_new_tokens=4)
        for step in range(20):
            batch = datamodule.bilevel_plan.batch(step, Replicas())  # type: ignore[union-attr]
            assert batch.inner.rows.input_ids.shape[1] <= 32
    assert choices("released_code").reserve == 128


def shrunk(name: str, toybench: Path, tmp_path: Path, fields: dict[str, Any], **trainer: Any) -> Path:
    """A recipe as it ships, with what makes it small laid over it."""
    recipe = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    recipe["trainer"] |= {
        "accelerator": "cpu",
        "max_steps": 7,
        "val_check_interval": 4,
        "limit_val_batches": 2,
        "log_every_n_steps": 1,
    }
    recipe["trainer"] |= {"default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False, **trainer}
    recipe["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path / "run")
    for callback in recipe["trainer"]["callbacks"]:
        if callback["class_path"] == "ModelCheckpoint":
            callback["init_args"] |= {"dirpath": str(tmp_path), "every_n_train_steps": 7}
        if callback["class_path"] == "InstructionAnalysis":
            callback["init_args"] |= {"folder": str(tmp_path / "run/instructions")}
    shared = {name: DATA[name] for name in ("row_length", "inner_steps", "instruction_length")}
    preset = {"preset": recipe["data"]["init_args"]["preset"]}
    small = {"pretrained": None, "config": fields, "warmup_steps": 1, **shared, **preset}
    recipe["model"]["init_args"] |= small
    recipe["model"]["init_args"]["outer"] |= {"calibrate_every": 1}
    benchmark = {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}}
    split = {"class_path": "CategorySplit", "init_args": {"outer": 4}}
    tokenizer = str(toybench / "tokenizer")
    recipe["data"]["init_args"] |= {**DATA, **preset, "benchmark": benchmark, "tokenizer": tokenizer, "split": split}
    for room, kind in (("model", InstructionOptimizationModule), ("data", InstructionOptimizationDataModule)):
        recipe[room]["class_path"] = f"{kind.__module__}.{kind.__qualname__}"
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("instruction_optimization*.yaml")))
def test_every_recipe_trains_and_answers_through_its_own_file(
    name: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    config = shrunk(name, toybench, tmp_path, T5 if name.endswith("t5") else tiny_model)
    cli = run(["fit", "--config", str(config)])
    assert (cli.trainer.global_step, cli.model.outer_step) == (7, 2)
    logged = cli.trainer.callback_metrics
    for value in ("inner_loss", "outer_loss", "hypergradient_norm", "fd_relative_error"):
        assert torch.isfinite(logged[f"train/{value}"])
    assert (tmp_path / "run/version_0/huggingface/config.json").exists()
    main(["test", "--config", str(config), "--ckpt_path", str(tmp_path / "last.ckpt")])
    assert (tmp_path / "run/version_1/report/test/report.json").exists()
    page = (tmp_path / "run/version_1/report/test/report.html").read_text()
    assert page.count("<figcaption>Norms of the gradients") == page.count('<th scope="col">learned</th>') == 1


TABLES = {  # name: (texts before "Now complete", candidates, outer tasks and something to learn)
    "definition": ("Definition", 0, False),
    "definition_positive": ("Definition Positive Positive", 0, False),
    "definition_positive_negative": ("Definition Positive Positive Negative", 0, False),
    "definition_positive_negative_explanation": (
        f"Definition{2 * ' Positive Explanation'} Negative Explanation",
        0,
        False,
    ),
    "direct_embedder": ("", 0, True),
    "instance_embedder": ("", 0, True),
    "definition_direct_embedder": ("Definition", 0, True),
    "definition_instance_embedder": ("Definition", 0, True),
    "random_exemplar_per_task": ("Definition", 1, False),
    "random_exemplar_per_instance": ("Definition", 1, False),
    "blank": ("Definition", 2, False),
    "direct_extractor": ("Definition", 4, True),
    "instance_extractor": ("Definition", 4, True),
}


def test_every_row_of_the_tables_has_its_file() -> None:
    assert {path.stem for path in (CONFIGS / "instruction_tables").glob("*.yaml")} == set(TABLES)


@pytest.mark.parametrize("row", TABLES)
def test_every_row_of_the_tables_reads_as_the_paper_has_it(
    row: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    """Laid over the recipe: what stands before an inner instance, and what the test asks."""
    config = shrunk("instruction_optimization_t5", toybench, tmp_path, T5)
    overlay = yaml.safe_load((CONFIGS / f"instruction_tables/{row}.yaml").read_text())
    before, candidates, learns = TABLES[row]
    small = {"candidates": candidates} if learns and candidates else {}
    changes = {"instruction_length": 24, "row_length": 400, **small} if candidates else {"row_length": 400}
    overlay["data"]["init_args"] |= changes
    laid = tmp_path / "overlay.yaml"
    laid.write_text(yaml.safe_dump(overlay))
    cli = CrosstaskCLI(
        run=False,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        args=["--config", str(config), "--config", str(laid)],
    )
    module, data = cli.model, cli.datamodule
    data.setup("fit")
    data.setup("test")
    batch = data.bilevel_plan.batch(INNER_STEPS - 1, Replicas())
    assert (batch.outer is not None) == learns
    ids = batch.inner.inputs.candidate_ids
    assert (0 if ids is None else ids.shape[1]) == candidates
    text = texts(data, batch.inner.rows)[0].split("Now complete the following example")[0]
    marks = sorted(
        (found.start(), word) for word in set(before.split()) for found in re.finditer(f"{word}( Example|:)", text)
    )
    assert " ".join(word for _, word in marks) == before
    asked = data._evaluation["test"].prompts[0].source
    assert asked.startswith("Definition: ")
    assert asked.count("Positive Example") == (1 if candidates else 0)
    assert module.instruction_settings.kind == overlay["model"]["init_args"]["instruction"]
    rate = overlay["model"]["init_args"].get("outer", {"learning_rate": 1e-5})["learning_rate"]
    assert (module.outer.learning_rate, module.outer.calibrate_every) == (rate, 1)  # the recipe's others remain


def test_without_anything_to_learn_theta_is_trained_on_the_text_alone(make: Make) -> None:
    """Nothing before the text is plain training; the first of two candidates is the blank."""
    plain, datamodule = make(data={"split": None}, instruction="none")
    fitted = trainer(1)
    fitted.fit(plain, datamodule)
    assert plain.phi == []
    (batch,) = [next(iter(datamodule.train_dataloader()))]
    fresh, _ = make(data={"split": None}, instruction="none")
    fresh.configure_model()
    expected = target_loss(fresh.language_model, batch.inner.rows).sum / batch.inner.rows.step_targets
    assert fitted.callback_metrics["train/inner_loss"] == pytest.approx(expected.item(), rel=1e-5)

    blanks = {"split": None, "candidates": 2, "instruction_length": 24, "blank_candidates": True}
    module, datamodule = make(data=blanks, instruction="first_exemplar")
    module_trainer = trainer(2)
    module_trainer.fit(module, datamodule)
    model, inputs = reader(module.language_model), next(iter(datamodule.train_dataloader())).inner.inputs
    assert module.instruction is not None
    made = module.instruction(inputs, model)
    pad = datamodule.preparation.tokenizer.pad_token_id
    blank = model.embed(torch.tensor(pad))
    assert_close(made.embeddings[made.mask.bool()], blank.expand(int(made.mask.sum()), -1))
    assert made.mask.any()

    with pytest.raises(ValueError, match="there are none: set the datamodule's split, or instruction to none"):
        trainer().fit(*make(data={"split": None}))


@pytest.mark.parametrize(("strategy", "instruction"), [("ddp", "direct_embedder"), ("fsdp2", "direct_extractor")])
def test_two_processes_find_the_hypergradient_of_one(
    strategy: str, instruction: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    """Rows hold different numbers of targets, so a mean of the replicas' means would be another hypergradient."""
    fields = {**tiny_model, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = shrunk(
        "instruction_optimization_toybench",
        toybench,
        tmp_path,
        fields,
        limit_val_batches=0,
        enable_model_summary=False,
    )
    recipe = yaml.safe_load(config.read_text())
    recipe["trainer"]["callbacks"] = [c for c in recipe["trainer"]["callbacks"] if c["class_path"] == "ModelCheckpoint"]
    config.write_text(yaml.safe_dump(recipe))
    options = {"dtype": "float64", "outer.gamma": 0.1, "outer.noise_every": 1, "learning_rate": 0.01}
    options |= {"instruction": instruction}
    words = ["fit", "--config", str(config)]
    words += [word for name, value in options.items() for word in (f"--model.init_args.{name}", str(value))]
    if instruction == "direct_extractor":  # an exemplar's embeddings are rows of the sharded table
        words += ["--data.init_args.candidates", "3", "--data.init_args.instruction_length", "24"]
    run(words)
    alone = torch.load(tmp_path / "last.ckpt", weights_only=False)
    (tmp_path / "last.ckpt").unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "crosstask.cli", *words, "--trainer.devices", "2"]
    if strategy == "ddp":
        command += ["--trainer.strategy", "ddp"]
    else:
        command += ["--trainer.strategy=ShardedStrategy", "--trainer.strategy.save_distributed_checkpoint=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    both = torch.load(tmp_path / "last.ckpt", weights_only=False)
    for name, value in alone["state_dict"].items():
        assert_close(both["state_dict"][name], value, rtol=1e-6, atol=1e-9)
    for one, other in zip(
        *(c["instruction_optimization"]["optimizer"]["state"][0].values() for c in (alone, both)), strict=True
    ):
        assert_close(other, one, rtol=1e-6, atol=1e-18)  # Adam's moments are sums of hypergradients
    first, second = (last_logged(tmp_path / f"run/version_{version}/metrics.csv") for version in (0, 1))
    assert second == pytest.approx(first, rel=1e-5)
    assert len(first) > 8


def last_logged(path: Path) -> dict[str, float]:
    """The last value that was logged of every training metric."""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    return {name: float(row[name]) for row in rows for name in row if name.startswith("train/") and row[name]}


def test_an_extractor_learns_that_an_exemplar_teaches_more_than_a_blank(
    toybench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 4.2 of the paper in small; it found about half of the choices on the exemplar."""
    example = runpy.run_path(str(CONFIGS.parent / "examples/exemplar_or_blank.py"))
    shares = example["exemplar_shares"](toybench, "direct_extractor", steps=40)
    assert shares[0] == 0.0
    assert shares[-1] > 0.5

    def uphill(*arguments: Any, **options: Any) -> Hypergradient:
        found = hypergradient(*arguments, **options)
        return found._replace(gradients=[-gradient for gradient in found.gradients])

    monkeypatch.setattr("crosstask.lightning_modules.instructions.outer_level.hypergradient", uphill)
    assert max(example["exemplar_shares"](toybench, "direct_extractor", steps=40)) < 0.2
