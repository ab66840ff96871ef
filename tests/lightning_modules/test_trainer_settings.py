"""Every argument of Lightning's trainer works or is rejected, as the docs' table says."""

import inspect
from datetime import timedelta
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, LambdaCallback
from lightning.pytorch.plugins import TransformerEnginePrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from small_runs import SmallRuns, small_trainer, weights_of
from torch import Tensor
from trainer_fits import KINDS, STEPS, reject_at_start, rows, trained

from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.trainer_checks import reject_settings

TOGETHER: dict[str, Any] = {
    "detect_anomaly": True,
    "deterministic": True,
    "use_distributed_sampler": False,
    "profiler": "simple",
    "enable_autolog_hparams": False,
    "max_time": "00:01:00:00",
    "max_epochs": -1,
}
"""Arguments that change nothing of what is trained."""


REJECTED_ARGUMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("overfit_batches", {"overfit_batches": 2}, "overfit_batches repeats batches of a DataLoader"),
    ("overfit_batches", {"overfit_batches": 0.5}, "overfit_batches repeats batches of a DataLoader"),
    ("limit_train_batches", {"limit_train_batches": 1}, "limit_train_batches would begin another epoch"),
    ("limit_train_batches", {"limit_train_batches": 0.5}, "limit_train_batches would begin another epoch"),
    ("limit_train_batches", {"limit_train_batches": 0}, "limit_train_batches would begin another epoch"),
    ("max_epochs", {"max_epochs": 2}, "max_epochs = 2 has no effect"),
    ("max_epochs", {"max_epochs": 0}, "max_epochs = 0 has no effect"),
    ("min_epochs", {"min_epochs": 1}, "min_steps and min_epochs would keep a run from stopping early"),
    ("min_steps", {"min_steps": 2}, "min_steps and min_epochs would keep a run from stopping early"),
    ("check_val_every_n_epoch", {"check_val_every_n_epoch": 2}, "check_val_every_n_epoch above 1 would never validate"),
    (
        "val_check_interval",
        {"val_check_interval": 4, "check_val_every_n_epoch": None, "limit_val_batches": 1},
        "val_check_interval = 4 exceeds the 3 x 1 batches",
    ),
    (
        "val_check_interval",
        {"val_check_interval": "00:00:01:00", "limit_val_batches": 1, "devices": 2, "strategy": "ddp"},
        "val_check_interval is a time, and processes would not reach it",
    ),
    ("sync_batchnorm", {"sync_batchnorm": True}, "sync_batchnorm has no effect"),
    ("reload_dataloaders_every_n_epochs", {"reload_dataloaders_every_n_epochs": 1}, "every_n_epochs has no effect"),
    ("model_registry", {"model_registry": "some/model"}, "model_registry has no effect"),
    ("gradient_clip_algorithm", {"gradient_clip_algorithm": "norm"}, "no effect without trainer.gradient_clip_val"),
    ("gradient_clip_algorithm", {"gradient_clip_algorithm": "value"}, "no effect without trainer.gradient_clip_val"),
    # Instruction optimization rejects every value.
    ("gradient_clip_val", {"gradient_clip_val": -1.0}, "the largest norm of a gradient, .* got -1.0|_val is -1.0"),
    ("gradient_clip_val", {"gradient_clip_val": float("nan")}, "the largest norm of a gradient, .* got nan|is nan"),
    ("accumulate_grad_batches", {"accumulate_grad_batches": 0}, "must be at least 1 batch a step, got 0|batches is 0"),
]


def test_every_argument_has_a_row() -> None:
    assert list(rows("Arguments of Trainer")) == list(inspect.signature(L.Trainer.__init__).parameters)[1:]


def test_what_the_page_says_is_rejected_is_tested_and_nothing_else() -> None:
    said = {name for name, outcome in rows("Arguments of Trainer").items() if "rejected" in outcome}
    elsewhere = {"precision", "plugins", "fast_dev_run"}  # the tests below
    assert said == {name for name, _, _ in REJECTED_ARGUMENTS} | elsewhere


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "options", "said"), REJECTED_ARGUMENTS)
def test_an_argument_is_rejected_at_the_start(
    kind: str, name: str, options: dict[str, Any], said: str, small_runs: SmallRuns
) -> None:
    module, data = small_runs(kind)
    with pytest.raises(ValueError, match=said):
        reject_at_start(module, data, small_trainer(STEPS, **options))
    assert module.model is None


def test_layers_that_are_replaced_while_a_model_is_built_are_rejected(small_runs: SmallRuns) -> None:
    trainer = small_trainer(STEPS)
    trainer.strategy.precision_plugin = object.__new__(TransformerEnginePrecision)  # its library needs a GPU
    with pytest.raises(ValueError, match="TransformerEnginePrecision replaces layers while a model is built"):
        reject_settings(trainer)


def test_value_clipping_under_deepspeed_is_rejected() -> None:
    trainer = small_trainer(STEPS, gradient_clip_algorithm="value", gradient_clip_val=1.0)
    trainer.strategy.__class__ = DeepSpeedStrategy  # type: ignore[assignment]
    with pytest.raises(ValueError, match="DeepSpeed clips gradients by their norm"):
        reject_settings(trainer)


@pytest.mark.parametrize(("batches", "accumulated"), [(3, 2), (1, 4)])
def test_a_trial_of_parts_of_a_step_is_rejected(batches: int, accumulated: int, small_runs: SmallRuns) -> None:
    with pytest.raises(ValueError, match=f"fast_dev_run = {batches} batches are no whole optimizer steps"):
        trained(small_runs, "tuning", fast_dev_run=batches, accumulate_grad_batches=accumulated)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        TOGETHER,
        {"barebones": True},
        {"benchmark": True},
        {"check_val_every_n_epoch": None},
        {"limit_val_batches": 2, "val_check_interval": 1, "num_sanity_val_steps": 1},
        {"limit_val_batches": 2, "val_check_interval": 0.5, "inference_mode": False},
        {"limit_val_batches": 2, "val_check_interval": {"seconds": 0}},
        {"limit_val_batches": 2, "val_check_interval": timedelta(hours=1)},
        {"limit_val_batches": 1, "check_val_every_n_epoch": None, "val_check_interval": 2},
    ],
    ids=str,
)
def test_what_works_leaves_the_weights_as_they_are(
    kind: str, options: dict[str, Any], small_runs: SmallRuns, plain_weights: dict[str, dict[str, Tensor]]
) -> None:
    settings = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    data = {"instances": {"validation": 1}}
    quiet = {"logger": None, "enable_progress_bar": None, "enable_model_summary": None, "enable_checkpointing": None}
    try:
        trainer = trained(small_runs, kind, data=data, **{**(quiet if "barebones" in options else {}), **options})
    finally:
        torch.use_deterministic_algorithms(settings[0])
        torch.backends.cudnn.benchmark = settings[1]
    assert trainer.global_step == STEPS
    for name, weight in weights_of(trainer.lightning_module).items():
        assert torch.equal(weight, plain_weights[kind][name]), name
    if options.get("limit_val_batches") and options["val_check_interval"] != timedelta(hours=1):
        assert any(name.startswith("validation/") for name in trainer.callback_metrics)


@pytest.mark.parametrize(("kind", "accumulated"), [("tuning", 2), ("tuning", 4), ("scorer", 2)])
def test_accumulated_batches_have_the_same_losses(kind: str, accumulated: int, small_runs: SmallRuns) -> None:
    losses = []
    without_dropout = {"network": Network(dropout=0.0)} if kind == "scorer" else {}  # each batch drops other units
    slow = Optimization(learning_rate=1e-4)  # Adam enlarges rounding
    for batches in (1, accumulated):
        module, data = small_runs(kind, optimizer=slow, **without_dropout)
        trainer = small_trainer(STEPS, accumulate_grad_batches=batches)
        trainer.fit(module, datamodule=data)
        losses.append(trainer.callback_metrics["train/loss"].item())
    together, apart = losses
    assert apart == pytest.approx(together, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_run_works(kind: str, small_runs: SmallRuns) -> None:
    module, data = small_runs(kind)
    trainer = L.Trainer(accelerator="cpu", devices=1, fast_dev_run=4, enable_progress_bar=False)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 4


@pytest.mark.parametrize(("algorithm", "value"), [("norm", 1e-3), ("value", 1e-4)])
@pytest.mark.parametrize("kind", ["tuning", "scorer"])
def test_clipping_does_what_it_says(kind: str, algorithm: str, value: float, small_runs: SmallRuns) -> None:
    sizes: list[float] = []

    def note(trainer: Any, module: Any, optimizer: Any) -> None:
        parts = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        if not parts:  # before the first step
            return
        gradients = torch.cat(parts)
        sizes.append((gradients.norm() if algorithm == "norm" else gradients.abs().max()).item())

    options: dict[str, Any] = {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
    trained(small_runs, kind, **options, callbacks=[LambdaCallback(on_before_zero_grad=note)])
    assert max(sizes) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.float32), ("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_precision_is_that_of_the_weights(kind: str, precision: Any, dtype: torch.dtype, small_runs: SmallRuns) -> None:
    """Half-precision weights are rejected for finite differences."""
    if (kind, precision) == ("optimization", "bf16-true"):
        with pytest.raises(ValueError, match="finite differences need float32 weights"):
            trained(small_runs, kind, precision=precision)
        return
    module = trained(small_runs, kind, precision=precision).lightning_module
    assert {parameter.dtype for parameter in module.model.parameters()} == {dtype}


class Writer(BasePredictionWriter):
    written = 0

    def write_on_batch_end(self, *arguments: Any) -> None:
        self.written += 1


@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_evaluation_are_obeyed(kind: str, small_runs: SmallRuns) -> None:
    module, data = small_runs(kind, {"evaluation": {"batch_tokens": 512}})
    writer = Writer("batch")
    trainer = small_trainer(1, limit_test_batches=1, limit_predict_batches=2, callbacks=[writer])
    trainer.test(module, datamodule=data, verbose=False)
    assert trainer.callback_metrics
    trainer.predict(module, datamodule=data)
    assert writer.written == 2
