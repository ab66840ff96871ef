"""Differentiable instruction optimization: the loop of two levels against one written out by hand, and its data."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bilevel_runs import INNER_STEPS, Make, trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from crosstask.datamodules.bilevel.bilevel_stream import BilevelBatch
from crosstask.datamodules.bilevel.row_chunks import halves, inner_chunks, outer_chunks, take_rows
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instructed_loss import instructed_loss, reader
from crosstask.lightning_modules.instructions.instruction_kinds import build_instruction
from crosstask.lightning_modules.target_loss import target_loss


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
def test_the_loop_is_the_one_written_out_by_hand(
    make_bilevel: Make, preset: str, seq2seq: bool, instruction: str
) -> None:
    data: dict[str, Any] = {"preset": preset, "levels": {"reserve": 40 if preset == "released_code" else None}}
    if instruction == "instance_extractor":
        data |= {"instructions": {"exemplars": 3, "length": 24}}
    exact = {"dtype": "float64", "dropout": 0.0 if seq2seq else None, "curvature": "exact"}
    module, datamodule = make_bilevel(seq2seq, data, instruction=instruction, **exact)
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
def test_every_method_is_the_one_written_out_by_hand(make_bilevel: Make, method: str) -> None:
    options: dict[str, Any] = {"damping": 5.0 * (method == "conjugate_gradient")}
    if method == "adam_preconditioned":  # rows that were hardly touched have huge steps: its series grows at once
        options["hessian_products"] = 0
    module, datamodule = make_bilevel(method=method, dtype="float64", curvature="exact", **options)
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
def test_every_method_runs_by_finite_differences(make_bilevel: Make, method: str) -> None:
    products = 0 if method == "adam_preconditioned" else None
    gamma = "auto" if method == "neumann" else 0.1
    module, datamodule = make_bilevel(method=method, gamma=gamma, hessian_products=products)
    fitted = trainer()
    fitted.fit(module, datamodule)
    assert module.outer_step == 2
    assert 0 < fitted.callback_metrics["train/hypergradient_norm"] < float("inf")


def test_gamma_auto_is_kept_between_searches_and_in_checkpoints(make_bilevel: Make, tmp_path: Path) -> None:
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)
    module, datamodule = make_bilevel(gamma="auto")
    fitted = trainer(7, callbacks=[saved])
    fitted.fit(module, datamodule)
    assert module.outer_level is not None
    largest = abs(fitted.callback_metrics["train/largest_curvature"].item())
    assert module.outer_level.gamma == pytest.approx(0.9 / largest)

    resumed, datamodule = make_bilevel(gamma="auto")
    trainer(7).fit(resumed, datamodule, ckpt_path=str(tmp_path / "epoch=0-step=4.ckpt"))
    assert resumed.outer_level is not None
    assert resumed.outer_level.gamma == module.outer_level.gamma
    for found, expected in zip(state(resumed), state(module), strict=True):
        assert torch.equal(found, expected)


def test_the_hessian_hardly_matters_at_the_papers_gamma(make_bilevel: Make) -> None:
    """Why the preset `fast` leaves it out, and what the logged ratio tells."""
    norms = {}
    for preset in ("paper", "fast"):
        module, datamodule = make_bilevel(data={"preset": preset}, gamma=None)
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
def test_a_run_resumed_between_steps_of_phi_ends_as_an_undisturbed_one(
    make_bilevel: Make, preset: str, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is on, and the radius of the finite differences is looked for: both are the same after resuming.

    Sharded strategies restore a checkpoint when the optimizers are there already (`late`), others before.
    """
    monkeypatch.setattr(L.pytorch.strategies.SingleDeviceStrategy, "restore_checkpoint_after_setup", late)
    data: dict[str, Any] = {"preset": preset, "instructions": {"exemplars": 3, "length": 24}}
    data |= {"levels": {"reserve": 40 if preset == "released_code" else None}}
    options: dict[str, Any] = {"instruction": "direct_extractor", "calibrate_every": 3}
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)
    undisturbed, datamodule = make_bilevel(True, data, **options)
    trainer(11, callbacks=[saved]).fit(undisturbed, datamodule)

    resumed, datamodule = make_bilevel(True, data, **options)
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


def test_learnable_instructions_exist_in_training_alone(make_bilevel: Make, tmp_path: Path) -> None:
    module, datamodule = make_bilevel()
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=7)
    trainer(7, callbacks=[saved], limit_val_batches=1.0).fit(module, datamodule)
    assert torch.load(tmp_path / "epoch=0-step=7.ckpt", weights_only=False)["state_dict"].keys() > {"instruction.table"}

    plain, datamodule = make_bilevel()
    tested = trainer(7)
    (scores,) = tested.test(plain, datamodule, ckpt_path=str(tmp_path / "epoch=0-step=7.ckpt"), verbose=False)
    assert 0 <= scores["test/rouge_l"] <= 1
    assert plain.instruction is None
    for found, expected in zip(plain.theta, module.theta, strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(RuntimeError, match="exists only in training"):
        plain.phi  # noqa: B018


def test_phis_schedule_ends_with_its_own_steps_or_with_thetas(make_bilevel: Make) -> None:
    rates = {}
    for preset in ("paper", "released_code"):
        module, datamodule = make_bilevel(data={"preset": preset, "levels": {"reserve": 40}}, total_steps=6)
        trainer(6).fit(module, datamodule)
        assert module.outer_level is not None
        rates[preset] = module.outer_level.schedule.get_last_lr()[0]
    assert rates["paper"] == 0.0  # after 2 of its 2 steps
    assert rates["released_code"] == pytest.approx(1e-2 * 4 / 7)  # after 2 of theta's 6


def test_halves_of_the_outer_batch_tell_how_noisy_the_hypergradient_is(make_bilevel: Make) -> None:
    module, datamodule = make_bilevel(noise_every=1)
    fitted = trainer(INNER_STEPS)
    fitted.fit(module, datamodule)
    assert -1 <= fitted.callback_metrics["train/hypergradient_cosine"] <= 1
    for seq2seq in (False, True):
        module, datamodule = make_bilevel(seq2seq)
        datamodule.setup("fit")
        rows = datamodule.plan.batch(INNER_STEPS - 1, Replicas()).outer  # type: ignore[union-attr]
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
def test_chunks_of_rows_sum_to_the_whole_batch(make_bilevel: Make, seq2seq: bool) -> None:
    """The losses of the parts are those of the whole, and no part is wider than it must be."""
    module, datamodule = make_bilevel(
        seq2seq, {"instructions": {"exemplars": 3, "length": 24}}, instruction="instance_extractor"
    )
    datamodule.setup("fit")
    module.configure_model()
    batch = datamodule.plan.batch(INNER_STEPS - 1, Replicas())  # type: ignore[union-attr]
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


def test_a_hessian_that_changes_nothing_is_looked_at_between_searches_only(make_bilevel: Make) -> None:
    for gamma, terms, ratio in ((1e-5, 1.0, 0.0), (0.3, 2.0, 1e-3)):
        module, datamodule = make_bilevel(gamma=gamma, calibrate_every=2)
        fitted = trainer()
        fitted.fit(module, datamodule)
        assert module.outer_step == 2
        assert fitted.callback_metrics["train/terms"] == terms
        assert fitted.callback_metrics["train/curvature_ratio"] >= ratio


def test_a_growing_series_is_reported(make_bilevel: Make) -> None:
    module, datamodule = make_bilevel(gamma=1e5)
    with pytest.warns(UserWarning, match="the series of the hypergradient grew"):
        trainer(INNER_STEPS).fit(module, datamodule)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"inner_steps": 0}, r"inner_steps \(K\) must be at least 1, got 0"),
        ({"clip": -1.0}, "clip must be a positive norm, or 0 to clip nothing, got -1.0"),
        ({"hessian_products": -1}, r"hessian_products \(M\) must be 0 or more .* got -1"),
        ({"gamma": 0.0}, "gamma positive"),
        ({"preset": "code"}, "preset must be one of"),
        (
            {"gamma": "auto", "method": "sama"},
            "gamma auto estimates the step of neumann's series: set a number for sama",
        ),
        ({"method": "conjugate_gradient", "hessian_products": 0}, "conjugate_gradient needs iterations"),
        ({"damping": 1.0}, "damping = 1.0 is for conjugate_gradient: leave it out for neumann"),
        ({"method": "adam_preconditioned", "when": "before", "inner_steps": 1}, "before any theta step"),
        ({"method": "sama", "when": "before"}, "set outer.when to after"),
        ({"curvature": "exact", "compile": True}, "compiled blocks do not allow: set network.compile to false"),
    ],
)
def test_impossible_settings_of_the_module(make_bilevel: Make, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_bilevel(**arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gradient_clip_val": 1.0}, "gradient_clip_val is 1.0: leave it out, and set the model's clip"),
        ({"accumulate_grad_batches": 2}, "set the datamodule's inner_rows and outer_rows"),
        (
            {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))},
            "set trainer.precision to bf16-mixed or 32-true, got 16-mixed",
        ),
    ],
)
def test_what_lightning_does_for_its_own_steps_is_rejected(
    make_bilevel: Make, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        trainer(**options).fit(*make_bilevel())


def test_a_clip_of_0_clips_nothing(make_bilevel: Make) -> None:
    losses = {}
    for clip in (0.0, 1e9):
        fitted = trainer(INNER_STEPS)
        fitted.fit(*make_bilevel(clip=clip, clipping="joint"))
        losses[clip] = fitted.callback_metrics["train/inner_loss"].item()
    assert losses[0.0] == losses[1e9]


def test_what_finite_differences_and_the_loop_cannot_do_is_rejected(
    make_bilevel: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"finite differences need float32 weights, and the model's are torch.bfloat16"
    ):
        trainer().fit(*make_bilevel(dtype="bfloat16"))
    with pytest.raises(ValueError, match="an extractor needs exemplars"):
        trainer().fit(*make_bilevel(instruction="direct_extractor"))
    module, datamodule = make_bilevel()
    datamodule.levels = replace(datamodule.levels, inner_steps=2)
    with pytest.raises(ValueError, match="inner_steps is 3 in the module and 2 in the datamodule"):
        trainer().fit(module, datamodule)
    monkeypatch.setattr("crosstask.lightning_modules.instructions.fit_checks.SingleDeviceStrategy", int)
    with pytest.raises(ValueError, match=r"one device, with DDP or with FSDP2 .* got SingleDeviceStrategy"):
        trainer().fit(*make_bilevel())


def test_without_anything_to_learn_theta_is_trained_on_the_text_alone(make_bilevel: Make) -> None:
    """Nothing before the text is plain training; the first of two exemplars is the blank."""
    plain, datamodule = make_bilevel(data={"split": None}, instruction="none")
    fitted = trainer(1)
    fitted.fit(plain, datamodule)
    assert plain.phi == []
    (batch,) = [next(iter(datamodule.train_dataloader()))]
    fresh, _ = make_bilevel(data={"split": None}, instruction="none")
    fresh.configure_model()
    expected = target_loss(fresh.language_model, batch.inner.rows).sum / batch.inner.rows.step_targets
    assert fitted.callback_metrics["train/inner_loss"] == pytest.approx(expected.item(), rel=1e-5)

    blanks = {"split": None, "instructions": {"exemplars": 2, "length": 24, "blank": True}}
    module, datamodule = make_bilevel(data=blanks, instruction="first_exemplar")
    module_trainer = trainer(2)
    module_trainer.fit(module, datamodule)
    model, inputs = reader(module.language_model), next(iter(datamodule.train_dataloader())).inner.inputs
    assert module.instruction is not None
    made = module.instruction(inputs, model)
    pad = datamodule.preparation.tokenizer.pad_token_id
    blank = model.embed(torch.tensor(pad))
    assert_close(made.embeddings[made.mask.bool()], blank.expand(int(made.mask.sum()), -1))
    assert made.mask.any()

    with pytest.raises(ValueError, match=r"there are none: set the datamodule's split, or instruction\.kind to none"):
        trainer().fit(*make_bilevel(data={"split": None}))
