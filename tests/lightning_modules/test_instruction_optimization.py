"""Differentiable instruction optimization: what is resumed, logged, warned of and rejected."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bilevel_runs import INNER_STEPS, Make, trainer
from lightning.pytorch.plugins import MixedPrecision
from recipes import save_model
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from crosstask.commands.export import export_checkpoint
from crosstask.datamodules.bilevel.row_chunks import halves, inner_chunks, outer_chunks, take_rows
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.adapters import LoRA, merged_weights
from crosstask.lightning_modules.hypergradients import Diagnostics
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instructed_loss import instructed_loss, model_functions
from crosstask.lightning_modules.instructions.instruction_kinds import build_instruction
from crosstask.lightning_modules.instructions.outer_report import outer_warnings
from crosstask.lightning_modules.instructions.outer_settings import OuterSettings
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.target_loss import target_loss

METHODS = ["identity", "conjugate_gradient", "adam_preconditioned", "sama"]


@pytest.mark.parametrize("method", ["neumann", *METHODS])
def test_every_method_runs_by_finite_differences(make_bilevel: Make, method: str) -> None:
    products = 0 if method == "adam_preconditioned" else None
    gamma = "auto" if method == "neumann" else 0.1
    # The inner Hessian is indefinite after a few steps; damping makes it positive.
    damping = 50.0 if method == "conjugate_gradient" else 0.0
    module, datamodule = make_bilevel(method=method, gamma=gamma, hessian_products=products, damping=damping)
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
    value, error = (fitted.callback_metrics[f"train/largest_curvature{name}"].item() for name in ("", "_error"))
    assert module.outer_level.gamma == pytest.approx(0.9 / (abs(value) * (1 + error**2) ** 0.5))

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
        if preset == "paper":
            assert fitted.callback_metrics["train/curvature_ratio"] < 1e-3
        assert fitted.callback_metrics["train/hessian_products"] == (preset == "paper")
    assert norms["fast"] == pytest.approx(norms["paper"], rel=1e-3)
    assert 0 < norms["fast"] < 1e-4  # gamma stays a factor of it: Adam's eps of 1e-8 is near


def state(module: InstructionOptimizationModule) -> list[Tensor]:
    """Everything that training moves: theta, phi and the moments of phi's optimizer."""
    assert module.outer_level is not None
    moments = [value for each in module.outer_level.optimizer.state.values() for value in each.values()]
    return [tensor.detach() for tensor in [*module.theta, *module.phi, *moments]]


@pytest.mark.parametrize(("preset", "lateness"), [("paper", (False, True)), ("released_code", (False,))])
def test_a_run_resumed_between_steps_of_phi_ends_as_an_undisturbed_one(
    make_bilevel: Make, preset: str, lateness: tuple[bool, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is on, and the radius of the finite differences is looked for: both are the same after resuming.

    Sharded strategies restore a checkpoint when the optimizers are there already (`late`), others before.
    """
    data: dict[str, Any] = {"preset": preset, "instructions": {"exemplars": 3, "length": 24}}
    data |= {"levels": {"reserve": 40 if preset == "released_code" else None}}
    options: dict[str, Any] = {"instruction": "direct_extractor", "calibrate_every": 3, "total_steps": 11}
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)
    undisturbed, datamodule = make_bilevel(True, data, **options)
    trainer(11, callbacks=[saved]).fit(undisturbed, datamodule)

    assert undisturbed.outer_level is not None
    for late in lateness:
        monkeypatch.setattr(L.pytorch.strategies.SingleDeviceStrategy, "restore_checkpoint_after_setup", late)
        resumed, datamodule = make_bilevel(True, data, **options)
        fitted = trainer(11)
        fitted.fit(resumed, datamodule, ckpt_path=str(tmp_path / "epoch=0-step=4.ckpt"))
        assert (fitted.global_step, resumed.outer_step) == (11, 3)
        assert resumed.outer_level is not None
        assert resumed.outer_level.radius == undisturbed.outer_level.radius
        for found, expected in zip(state(resumed), state(undisturbed), strict=True):
            assert torch.equal(found, expected)
    # Nor does it hold because nothing happened after step 4.
    before = torch.load(tmp_path / "epoch=0-step=4.ckpt", weights_only=False)
    assert not torch.equal(before["state_dict"]["instruction.logits"], undisturbed.phi[0])


def test_theta_may_be_adapters_beside_frozen_weights(make_bilevel: Make, toybench: Path, tmp_path: Path) -> None:
    """They alone move and are in checkpoints, which resume exactly and export as a merged model."""
    weights = save_model("opt", tmp_path, len(load_tokenizer(str(toybench / "tokenizer"))))
    lora = LoRA(r=2, target_modules=["q_proj", "v_proj"])
    options: dict[str, Any] = {"config": None, "pretrained": str(weights), "lora": lora}
    saved = L.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=INNER_STEPS, save_top_k=-1)
    module, datamodule = make_bilevel(**options)
    trainer(2 * INNER_STEPS, callbacks=[saved]).fit(module, datamodule)
    named = dict(module.language_model.named_parameters())
    assert len(module.theta) == 8  # A and B of two matrices in each of two layers
    stored = load_file(weights / "model.safetensors")
    for name, parameter in named.items():
        assert parameter.requires_grad == ("lora_" in name)
        if not parameter.requires_grad:
            assert torch.equal(parameter, stored[name.replace(".base_layer", "")]), name
    assert all(parameter.abs().max() > 0 for name, parameter in named.items() if "lora_B" in name)
    assert module.outer_step == 2
    resumed, datamodule = make_bilevel(**options)
    trainer(2 * INNER_STEPS).fit(resumed, datamodule, ckpt_path=str(tmp_path / f"epoch=0-step={INNER_STEPS}.ckpt"))
    for found, expected in zip(state(resumed), state(module), strict=True):
        assert torch.equal(found, expected)
    export_checkpoint([str(tmp_path / f"epoch=0-step={2 * INNER_STEPS}.ckpt"), str(tmp_path / "exported")])
    merged = load_file(tmp_path / "exported/model.safetensors")
    assert_close(dict(merged_weights(module.language_model)), {name: merged[name] for name in merged})
    export_checkpoint(
        [str(tmp_path / f"epoch=0-step={2 * INNER_STEPS}.ckpt"), str(tmp_path / "alone")], adapters="alone"
    )
    for folder in ("exported", "alone"):
        assert (tmp_path / folder / "learned_instructions/instructions.safetensors").is_file()


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
        with pytest.raises(
            ValueError, match="compares halves of a replica's outer batch, which needs at least 2 rows, got 1"
        ):
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
        return instructed_loss(model, learned(part.inputs, model_functions(model)), part.rows).sum

    outer, inner = outer_chunks(batch.outer, 2), inner_chunks(batch.curvature, 3)
    assert [len(part.input_ids) for part in outer] == [2, 2]
    assert [len(part.rows.input_ids) for part in inner] == [3, 1]
    assert outer[1].input_ids.shape[1] < outer[0].input_ids.shape[1] == batch.outer.input_ids.shape[1]
    assert_close(sum(target_loss(model, part).sum for part in outer), target_loss(model, batch.outer).sum)
    assert_close(sum(inner_loss(part) for part in inner), inner_loss(batch.curvature))


def test_a_hessian_that_changes_nothing_is_looked_at_between_searches_only(make_bilevel: Make) -> None:
    for gamma, products, ratio in ((1e-5, 0.0, 0.0), (0.3, 1.0, 1e-3)):
        module, datamodule = make_bilevel(gamma=gamma, calibrate_every=2)
        fitted = trainer()
        fitted.fit(module, datamodule)
        assert module.outer_step == 2
        assert fitted.callback_metrics["train/hessian_products"] == products
        assert fitted.callback_metrics["train/curvature_ratio"] >= ratio


def test_values_of_the_outer_level_are_logged_at_steps_of_phi_alone(make_bilevel: Make, tmp_path: Path) -> None:
    """gamma = 1e-5: the Hessian is measured at the first outer step, and left out at the second one."""
    module, datamodule = make_bilevel(gamma=1e-5, calibrate_every=2)
    logger = L.pytorch.loggers.CSVLogger(tmp_path, name="", version="")
    trainer(7, logger=logger, log_every_n_steps=1).fit(module, datamodule)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    at = {name: [int(row["step"]) for row in rows if row.get(name)] for name in rows[0]}
    assert len(at["train/inner_loss"]) == 7
    assert at["train/outer_loss"] == at["train/hypergradient_norm"] == at["train/stopped_early"] == [3, 6]
    assert at["train/curvature_ratio"] == [3]
    assert [float(row["train/hessian_products"]) for row in rows if row["train/hessian_products"]] == [1.0, 0.0]


def test_steps_that_move_nothing_are_warned_of(make_bilevel: Make) -> None:
    still = Optimization(learning_rate=0.0, warmup=1)
    with pytest.warns(UserWarning, match="an inner step moved nothing, since its learning rate is 0"):
        trainer(INNER_STEPS).fit(*make_bilevel(optimizer=still))
    module, datamodule = make_bilevel()
    module.outer = replace(module.outer, learning_rate=0.0)
    with pytest.warns(UserWarning, match="phi's learning rate is 0, so that its step moves nothing"):
        trainer(INNER_STEPS).fit(module, datamodule)
    found = outer_warnings(Diagnostics(1.0, 1.0, 0.0), "neumann", rate=0.1)
    assert [warning.partition(",")[0] for warning in found] == ["the hypergradient is 0"]


def test_a_growing_series_is_reported(make_bilevel: Make) -> None:
    module, datamodule = make_bilevel(gamma=1e5)
    with pytest.warns(UserWarning, match="the series of the hypergradient grew"):
        trainer(INNER_STEPS).fit(module, datamodule)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "damping", "negligible", "gamma"])
def test_a_setting_of_the_outer_level_is_finite(name: str) -> None:
    for value in (math.nan, math.inf, -math.inf, *([] if name == "gamma" else [-1e-5])):
        with pytest.raises(ValueError, match=f"outer.{name} must be finite.* got {value}"):
            OuterSettings(**{name: value})


@pytest.mark.parametrize("name", ["rows_at_once", "calibrate_every", "noise_every"])
def test_a_number_of_the_outer_level_is_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=rf"outer\.{name} must be .* got -1"):
        OuterSettings(**{name: -1})


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
        ({"iterations": 0}, "iterations of conjugate_gradient must be 1 or more, got 0"),
        ({"method": "typo"}, r"outer.method must be one of \['neumann', .* or the import path of a function"),
        ({"method": "no_such_project.method"}, "outer.method is 'no_such_project.method', which cannot be imported"),
        ({"damping": 1.0}, "damping = 1.0 is for conjugate_gradient: leave it out for neumann"),
        ({"method": "adam_preconditioned", "when": "before", "inner_steps": 1}, "before any inner step"),
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
    with pytest.raises(ValueError, match=r"small gradients are lost in float16: set network.dtype to float32"):
        trainer().fit(*make_bilevel(dtype="float16", curvature="exact", attention="eager"))
    with pytest.raises(ValueError, match="an extractor needs exemplars"):
        trainer().fit(*make_bilevel(instruction="direct_extractor"))
    module, datamodule = make_bilevel()
    datamodule.levels = replace(datamodule.levels, inner_steps=2)
    with pytest.raises(ValueError, match="inner_steps is 3 in the module and 2 in the datamodule"):
        trainer().fit(module, datamodule)
    of_instances = {"instructions": {"exemplars": 3, "length": 24, "exemplars_of": "instance"}}
    with pytest.raises(ValueError, match=r"learns one logit for each exemplar of a task, and .* other exemplars"):
        trainer().fit(*make_bilevel(data=of_instances, instruction="direct_extractor"))
    with pytest.raises(ValueError, match=r"1 on 1 device\(s\) cannot be halved: set levels.outer_rows to 2 or more"):
        trainer().fit(*make_bilevel(noise_every=1, data={"levels": {"outer_rows": 1}}))
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
    model, inputs = model_functions(module.language_model), next(iter(datamodule.train_dataloader())).inner.inputs
    assert module.instruction is not None
    made = module.instruction(inputs, model)
    pad = datamodule.preparation.tokenizer.pad_token_id
    blank = model.embed(torch.tensor(pad))
    assert_close(made.embeddings[made.mask.bool()], blank.expand(int(made.mask.sum()), -1))
    assert made.mask.any()

    with pytest.raises(ValueError, match=r"there are none: set the datamodule's split, or instruction\.kind to none"):
        trainer().fit(*make_bilevel(data={"split": None}))
