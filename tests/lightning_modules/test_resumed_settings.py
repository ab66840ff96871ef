"""A resumed run has the settings that it is given, or is rejected: no setting is replaced by the checkpoint's."""

import logging
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy
from small_runs import SmallRuns, saved_run, small_trainer, weights_of
from transformers import AutoConfig

from crosstask.datamodules.pretrained_weights import config_of_fields
from crosstask.lightning_modules.adapters import LoRA
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.outer_settings import OuterSettings
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.resumed_settings import plain_config

KINDS = ("tuning", "scorer", "optimization")
FLAT = Optimization(learning_rate=0.01, schedule="constant")


@pytest.fixture(scope="module")
def runs(toybench: Path, tiny_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(toybench, tmp_path_factory.mktemp("runs"), tiny_model)


@pytest.fixture(scope="module")
def checkpoints(runs: SmallRuns) -> dict[str, Path]:
    """Each kind after two steps."""
    return {kind: saved_run(runs(kind, optimizer=FLAT), runs.folder / f"{kind}.ckpt", 3) for kind in KINDS}


def resumed(runs: SmallRuns, checkpoint: Path, kind: str, optimizer: Optimization, **arguments: Any) -> Any:
    """The trainer after one more step."""
    module, data = runs(kind, optimizer=optimizer, **arguments)
    trainer = small_trainer(4)
    trainer.fit(module, datamodule=data, ckpt_path=str(checkpoint))
    assert trainer.global_step == 4
    return trainer


def moved(trainer: Any, checkpoint: Path) -> dict[str, torch.Tensor]:
    """How far the model's weights are from the checkpoint's."""
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    weights = weights_of(trainer.lightning_module)
    return {name: value - before[name] for name, value in weights.items() if name.startswith("model.")}


@pytest.mark.parametrize("kind", KINDS)
def test_another_learning_rate_moves_weights_in_proportion(
    kind: str, runs: SmallRuns, checkpoints: dict[str, Path]
) -> None:
    """AdamW without decay moves by the learning rate times a direction that does not depend on it."""
    path = checkpoints[kind]
    once = moved(resumed(runs, path, kind, FLAT), path)
    twice = moved(resumed(runs, path, kind, Optimization(learning_rate=0.02, schedule="constant")), path)
    assert any(step.abs().max() > 1e-3 for step in once.values())
    for name, step in once.items():
        torch.testing.assert_close(twice[name], 2 * step, rtol=1e-3, atol=1e-6)
    warns = pytest.warns(UserWarning, match="learning rate is 0") if kind == "optimization" else nullcontext()
    with warns:
        still = moved(resumed(runs, path, kind, Optimization(learning_rate=0.0, schedule="constant")), path)
    assert all(step.abs().max() == 0 for step in still.values())


FASTER = Optimization(learning_rate=0.06, warmup=4, schedule="constant")  # step 4 of the warm-up
FALLING = Optimization(learning_rate=0.01, schedule="linear")  # the last of 4 steps: 1 / (4 + 1)


@pytest.mark.parametrize(
    ("kind", "optimizer", "expected"),
    [
        ("tuning", replace(FLAT, weight_decay=0.3), {"weight_decay": 0.3, "lr": 0.01}),
        ("optimization", replace(FLAT, weight_decay=0.3), {"weight_decay": 0.3, "lr": 0.01}),
        ("scorer", replace(FLAT, betas=(0.5, 0.6)), {"betas": (0.5, 0.6)}),
        ("optimization", FASTER, {"lr": 0.06}),
        ("tuning", FALLING, {"lr": 0.01 / 5}),
        ("scorer", replace(FLAT, fused=True), {"fused": True, "weight_decay": 0.0}),
    ],
)
def test_every_setting_of_the_optimizer_is_this_runs(
    kind: str, optimizer: Optimization, expected: dict[str, Any], runs: SmallRuns, checkpoints: dict[str, Path]
) -> None:
    module, data = runs(kind, optimizer=optimizer)
    trainer = small_trainer(4)
    used: list[dict[str, Any]] = []
    step = torch.optim.AdamW.step

    def noting(self: Any, *arguments: Any, **options: Any) -> Any:
        used.append({name: value for name, value in self.param_groups[0].items() if name != "params"})
        return step(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", noting)
        trainer.fit(module, datamodule=data, ckpt_path=str(checkpoints[kind]))
    (settings,) = used
    for name, value in expected.items():
        assert settings[name] == pytest.approx(value), name


def test_options_that_need_other_states_are_rejected(runs: SmallRuns, checkpoints: dict[str, Path]) -> None:
    """With amsgrad, AdamW keeps a maximum that the checkpoint lacks."""
    with pytest.raises(ValueError, match=r"other settings: optimizer.options.*amsgrad.* Set them back"):
        resumed(runs, checkpoints["scorer"], "scorer", replace(FLAT, options={"amsgrad": True}))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("tuning", "hidden_act", "gelu"), ("optimization", "attention_dropout", 0.25)],
)
def test_another_configuration_of_the_same_sizes_is_applied_and_reported(
    kind: str, field: str, value: Any, runs: SmallRuns, checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Weights of any activation or rotary base fit: nothing else would tell that the model computes otherwise."""
    other = SmallRuns(runs.toybench, runs.folder, {**runs.model, field: value})
    with caplog.at_level(logging.INFO):
        trainer = resumed(other, checkpoints[kind], kind, FLAT)
    assert getattr(trainer.lightning_module.model.config, field) == value
    (line,) = [record.message for record in caplog.records if "applied from here on" in record.message]
    assert f"config.{field} was" in line
    assert line.endswith(f"and is {value}")


@pytest.mark.parametrize(
    ("kind", "field", "value", "named"),
    [
        ("tuning", "head_dim", 8, "8 weights of another shape (model.model.layers"),
        ("optimization", "attention_bias", True, "4 weights missing (model.model.layers"),
        ("tuning", "tie_word_embeddings", True, "config.tie_word_embeddings was False and is True"),
    ],
)
def test_a_configuration_of_other_weights_is_rejected_by_name(
    kind: str, field: str, value: Any, named: str, runs: SmallRuns, checkpoints: dict[str, Path]
) -> None:
    """torch raises a RuntimeError, which is no sentence to a user, or says nothing."""
    other = SmallRuns(runs.toybench, runs.folder, {**runs.model, field: value})
    with pytest.raises(ValueError, match=f"a model with other weights: .*{re.escape(named)}") as rejected:
        resumed(other, checkpoints[kind], kind, FLAT)
    assert f"config.{field} was" in str(rejected.value)


def test_early_stopping_has_this_runs_patience(
    runs: SmallRuns, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stopping(patience: int) -> dict[str, Any]:
        callback = EarlyStopping("validation/loss", patience=patience)
        return {"callbacks": [callback], "limit_val_batches": 1.0, "val_check_interval": 2}

    path = saved_run(runs("scorer", optimizer=FLAT), tmp_path / "stopping.ckpt", 3, **stopping(5))
    module, data = runs("scorer", optimizer=FLAT)
    trainer = small_trainer(4, **stopping(2))
    with caplog.at_level(logging.INFO):
        trainer.fit(module, datamodule=data, ckpt_path=str(path))
    (callback,) = trainer.early_stopping_callbacks
    assert callback.patience == 2
    assert "EarlyStopping.patience was 5 and is 2" in caplog.text


def test_averages_do_not_train_on_as_if_they_had_been_trained(runs: SmallRuns, tmp_path: Path) -> None:
    averages = [EMAWeightAveraging(decay=0.5)]
    path = saved_run(runs("scorer", optimizer=FLAT), tmp_path / "averaged.ckpt", 3, callbacks=averages)
    with pytest.raises(ValueError, match="its weights are averages, and those that were trained are beside them"):
        resumed(runs, path, "scorer", FLAT)


def test_biases_and_norms_still_do_not_decay(runs: SmallRuns, checkpoints: dict[str, Path]) -> None:
    decayed = Optimization(learning_rate=0.01, schedule="constant", weight_decay=0.3)
    trainer = resumed(runs, checkpoints["scorer"], "scorer", decayed)
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.3, 0.0]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("setting", [{"learning_rate": 0.5}, {"weight_decay": 0.125}])
def test_the_settings_of_phi_are_this_runs(
    setting: dict[str, float],
    late: bool,
    runs: SmallRuns,
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sharded strategies restore a checkpoint when the optimizers are there already (`late`), others before."""
    monkeypatch.setattr(SingleDeviceStrategy, "restore_checkpoint_after_setup", late)
    outer = OuterSettings(calibrate_every=0, gamma=0.1, **setting)
    trainer = resumed(runs, checkpoints["optimization"], "optimization", FLAT, outer=outer)
    module = trainer.lightning_module
    assert isinstance(module, InstructionOptimizationModule)
    assert module.outer_level is not None
    (group,) = module.outer_level.optimizer.param_groups
    assert group["initial_lr"] == outer.learning_rate
    assert module.outer_level.schedule.base_lrs == [outer.learning_rate]
    assert group["weight_decay"] == outer.weight_decay
    assert module.outer_step == 1  # moments and position are the checkpoint's


def test_what_differs_is_reported_with_old_and_new_value(
    runs: SmallRuns, checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        resumed(runs, checkpoints["tuning"], "tuning", Optimization(learning_rate=0.02, schedule="constant"))
    assert "optimizer.learning_rate was 0.01 and is 0.02; total_steps was 3 and is 4" in caplog.text
    caplog.clear()
    module, data = runs("tuning", optimizer=FLAT)
    with caplog.at_level(logging.INFO):
        options: dict[str, Any] = {"gradient_clip_val": 0.5, "precision": "bf16-mixed"}
        small_trainer(3, **options).fit(module, datamodule=data, ckpt_path=str(checkpoints["tuning"]))
    assert (
        "trainer.gradient_clip_val was None and is 0.5; trainer.precision was 32-true and is bf16-mixed" in caplog.text
    )


def test_settings_that_decide_the_parameters_are_rejected(
    runs: SmallRuns, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    module, data = runs("optimization", {"instructions": {"length": 6}}, optimizer=FLAT)
    with pytest.raises(ValueError, match=r"parameters of other settings: instruction\.length was 4 and is 6\. Set"):
        small_trainer(4).fit(module, datamodule=data, ckpt_path=str(checkpoints["optimization"]))
    module, data = runs("lora")
    path = saved_run((module, data), tmp_path / "lora.ckpt", 1)
    module, data = runs("lora", lora=LoRA(r=3, target_modules=["q_proj", "v_proj"]))
    with pytest.raises(ValueError, match=r"lora\.r was 2 and is 3"):
        small_trainer(2).fit(module, datamodule=data, ckpt_path=str(path))


def test_weights_alone_cannot_be_resumed(runs: SmallRuns, tmp_path: Path) -> None:
    module, data = runs("tuning")
    trainer = small_trainer(1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    module, data = runs("tuning")
    with pytest.raises(ValueError, match=r"holds weights without the optimizer \(save_weights_only\)"):
        small_trainer(2).fit(module, datamodule=data, ckpt_path=str(tmp_path / "weights.ckpt"))


def without_settings(checkpoint: Path, path: Path, *names: str) -> Path:
    """A copy of a checkpoint that was written before some settings of the module or of the stream existed."""
    content = torch.load(checkpoint, weights_only=True)
    (stream,) = [value["training_stream"] for value in content.values() if "training_stream" in _keys(value)]
    for settings in (content["crosstask"]["settings"], stream["settings"]):
        for name in set(names) & set(settings):
            del settings[name]
    torch.save(content, path)
    return path


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


OLDER = {
    "tuning": ["optimizer.master_weights", "network.logits", "lora", "mixture.temperature", "rows.packing", "bos"],
    "scorer": ["optimizer.fused", "augmentation.faithful", "instances.every_prompt"],
    "optimization": ["outer.noise_every", "instruction.soft", "instruction.start.noise", "levels.curvature_batch"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_from_before_a_setting_existed_has_its_default(
    kind: str, runs: SmallRuns, checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the setting "was missing and is X", and no run could resume."""
    old = without_settings(checkpoints[kind], tmp_path / "old.ckpt", *OLDER[kind])
    with caplog.at_level(logging.INFO):
        resumed(runs, old, kind, FLAT)
    (line,) = [record.message for record in caplog.records if "applied from here on" in record.message]
    assert line.endswith("from here on: total_steps was 3 and is 4")


def test_a_new_setting_that_is_not_its_default_is_a_change(
    runs: SmallRuns, checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = without_settings(checkpoints["tuning"], tmp_path / "old.ckpt", *OLDER["tuning"])
    with pytest.raises(ValueError, match=r"other settings: optimizer\.master_weights was False and is True\. Set"):
        resumed(runs, old, "tuning", replace(FLAT, master_weights=True))
    module, data = runs("tuning", {"mixture": {"temperature": 2.0}}, optimizer=FLAT)
    with pytest.raises(ValueError, match=r"not that of the checkpoint: mixture\.temperature was 1\.0 and is 2\.0"):
        small_trainer(4).fit(module, datamodule=data, ckpt_path=str(old))
    with caplog.at_level(logging.INFO):
        resumed(runs, old, "tuning", FLAT, network=Network(logits="whole"))
    assert "network.logits was chunked and is whole" in caplog.text


@pytest.mark.parametrize("older", [False, True])
def test_another_inner_batch_of_the_hypergradient_is_rejected(
    older: bool, runs: SmallRuns, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    old = without_settings(checkpoints["optimization"], tmp_path / "old.ckpt", *["levels.curvature_batch"] * older)
    module, data = runs("optimization", {"levels": {"curvature_batch": "step"}}, optimizer=FLAT)
    with pytest.raises(ValueError, match=r"levels\.curvature_batch was (fresh|None) and is step"):
        small_trainer(4).fit(module, datamodule=data, ckpt_path=str(old))


OPT = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_attention_heads": 2}
OPT |= {"num_hidden_layers": 1, "max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("layer_norm_elementwise_affine", False, "6 weights stored alone (model.model.decoder.final_layer_norm.weight"),
        ("do_layer_norm_before", False, "2 weights stored alone (model.model.decoder.final_layer_norm.weight [32]"),
        ("max_position_embeddings", 300, "embed_positions.weight is [258, 32] there and [302, 32] here"),
    ],
)
def test_layer_norms_and_positions_of_opt_are_compared(
    field: str, value: Any, named: str, runs: SmallRuns, tmp_path: Path
) -> None:
    ours = SmallRuns(runs.toybench, tmp_path, OPT)
    path = saved_run(ours("tuning", optimizer=FLAT), tmp_path / "opt.ckpt", 1)
    other = SmallRuns(runs.toybench, tmp_path, {**OPT, field: value})
    with pytest.raises(ValueError, match=re.escape(named)) as rejected:
        resumed(other, path, "tuning", FLAT)
    assert f"config.{field} was" in str(rejected.value)


@pytest.mark.parametrize("kind", ["mamba2", "bamba"])
def test_a_configuration_with_infinity_is_read_back_from_a_checkpoint(kind: str) -> None:
    """transformers writes the upper limit of a time step as {"__float__": "Infinity"}."""
    config = AutoConfig.for_model(kind)
    fields = plain_config(config)
    assert config_of_fields(fields.pop("model_type"), fields).time_step_limit[1] == float("inf")
