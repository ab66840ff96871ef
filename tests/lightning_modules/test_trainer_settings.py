"""Every argument of Lightning's trainer and every callback works or is rejected, as the docs' tables say."""

import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    RichModelSummary,
    SpikeDetection,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import TransformerEnginePrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from small_runs import SmallRuns, small_trainer, weights_of
from torch import Tensor
from transformers import AutoModelForCausalLM

import crosstask
from crosstask.callbacks import HuggingFaceExport, Preemption
from crosstask.commands.export import export_checkpoint
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.trainer_checks import reject_settings

PAGE = (Path(crosstask.__file__).parent / "docs" / "trainer_settings.md").read_text(encoding="utf-8")
KINDS = ("tuning", "scorer", "optimization")
STEPS = 3


EACH: dict[str, Any] = {"limit_val_batches": 1.0, "val_check_interval": 1}
"""A validation after every batch."""


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


class Finetuning(BaseFinetuning):
    """Freezes a part of the model."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None: ...

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Any) -> None: ...


def rows(section: str) -> dict[str, str]:
    """Outcome of each row of a section of the page."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M))


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
]

REJECTED_CALLBACKS: list[tuple[Any, dict[str, Any], str]] = [
    (lambda: BackboneFinetuning(), {}, "freezes layers before the model is built"),
    (lambda: Finetuning(), {}, "freezes layers before the model is built"),
    (lambda: BatchSizeFinder(), {}, "set trainer.accumulate_grad_batches to hold fewer rows"),
    (lambda: GradientAccumulationScheduler({0: 2}), {}, "the loss would be multiplied"),
    (lambda: GradientAccumulationScheduler({3: 4}), {}, "the loss would be multiplied"),
    (lambda: LearningRateFinder(), {}, "trains steps of the stream that the run would not repeat"),
    (lambda: ModelPruning("l1_unstructured"), {}, "prunes layers before the model is built"),
    (lambda: OnExceptionCheckpoint("."), {}, "saves within an optimizer step"),
    (lambda: SpikeDetection(), {}, "lists batches for a sampler"),
    (lambda: StochasticWeightAveraging(0.1), {}, "use EMAWeightAveraging"),
    (lambda: StochasticWeightAveraging(0.1, swa_epoch_start=1), {}, "use EMAWeightAveraging"),
    (lambda: Timer("00:01:00:00", interval="epoch"), {}, "set its interval to step"),
    (lambda: EarlyStopping("validation/loss"), {}, "no validation runs"),
    (lambda: EarlyStopping("validation/loss"), {"limit_val_batches": 1}, "at the end of the training alone"),
    (
        lambda: EarlyStopping("train/loss", check_on_train_epoch_end=True),
        {"limit_val_batches": 1, "val_check_interval": 1},
        "at the end of the training alone",
    ),
    (lambda: ModelCheckpoint(".", save_on_exception=True), {}, "saves within an optimizer step"),
    (
        lambda: ModelCheckpoint(".", every_n_train_steps=STEPS + 1, monitor="validation/rouge_l"),
        {"limit_val_batches": 0},
        "monitors validation/rouge_l, and no validation runs",
    ),
    (lambda: ModelCheckpoint(".", every_n_epochs=2), {}, "saves every 2 epochs, and training is one"),
    (lambda: ModelCheckpoint(".", monitor="validation/loss"), {}, "monitors validation/loss, and no validation runs"),
    (lambda: ModelCheckpoint(".", every_n_train_steps=STEPS + 1), {}, "would never save in the 3 steps of this run"),
    (lambda: ModelCheckpoint("."), {"check_val_every_n_epoch": None}, "would never save in the 3 steps of this run"),
    (lambda: EMAWeightAveraging(update_starting_at_step=2), {}, "holds the initial weights until its first update"),
    (lambda: EMAWeightAveraging(update_every_n_steps=0), {}, "holds the initial weights until its first update"),
    (lambda: EMAWeightAveraging(update_starting_at_epoch=1), {}, "counts epochs in update_starting_at_epoch"),
    (lambda: WeightAveraging(), {"devices": 2, "strategy": "ShardedStrategy"}, "holds the whole model twice"),
]


@pytest.fixture(scope="module")
def runs(toybench: Path, tiny_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(toybench, tmp_path_factory.mktemp("runs"), tiny_model)


def trained(runs: SmallRuns, kind: str, steps: int = STEPS, data: dict[str, Any] | None = None, **options: Any) -> Any:
    """The trainer of a finished fit."""
    module, datamodule = runs(kind, data)
    trainer = small_trainer(steps, **options)
    trainer.fit(module, datamodule=datamodule)
    return trainer


@pytest.fixture(scope="module")
def plain(runs: SmallRuns) -> dict[str, dict[str, Tensor]]:
    """The weights of each kind after a fit without further settings."""
    return {kind: weights_of(trained(runs, kind).lightning_module) for kind in KINDS}


def test_every_argument_and_every_callback_has_a_row() -> None:
    assert list(rows("Arguments of Trainer")) == list(inspect.signature(L.Trainer.__init__).parameters)[1:]
    assert list(rows("Callbacks")) == list(lightning_callbacks.__all__)


def test_what_the_page_says_is_rejected_is_tested_and_nothing_else() -> None:
    said = {name for name, outcome in rows("Arguments of Trainer").items() if "rejected" in outcome}
    elsewhere = {"precision", "plugins", "fast_dev_run"}  # the tests below
    assert said == {name for name, _, _ in REJECTED_ARGUMENTS} | elsewhere
    kinds = {kind for make, _, _ in REJECTED_CALLBACKS for kind in type(make()).__mro__}
    said = {name for name, outcome in rows("Callbacks").items() if "rejected" in outcome}
    assert said == {kind.__name__ for kind in kinds} & {*lightning_callbacks.__all__} - {"Callback", "Checkpoint"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "options", "said"), REJECTED_ARGUMENTS)
def test_an_argument_is_rejected_at_the_start(
    kind: str, name: str, options: dict[str, Any], said: str, runs: SmallRuns
) -> None:
    module, data = runs(kind)
    with pytest.raises(ValueError, match=said):
        reject_at_start(module, data, small_trainer(STEPS, **options))
    assert module.model is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "options", "said"), REJECTED_CALLBACKS)
def test_a_callback_is_rejected_at_the_start(
    kind: str, make: Any, options: dict[str, Any], said: str, runs: SmallRuns
) -> None:
    module, data = runs(kind)
    if options.get("strategy") == "ShardedStrategy":
        from crosstask.lightning_modules.sharding.strategies import ShardedStrategy

        options = {**options, "strategy": ShardedStrategy()}
    callback = make()
    checkpoints = isinstance(callback, Checkpoint)
    with pytest.raises(ValueError, match=said):
        reject_at_start(
            module, data, small_trainer(STEPS, **options, callbacks=[callback], enable_checkpointing=checkpoints)
        )
    assert module.model is None


def reject_at_start(module: Any, data: Any, trainer: L.Trainer) -> None:
    """Call the hook that ``fit`` calls first; several processes are not started for it."""
    if trainer.num_devices == 1:
        trainer.fit(module, datamodule=data)
        return
    trainer.datamodule = data  # type: ignore[attr-defined]
    trainer.state.fn = L.pytorch.trainer.states.TrainerFn.FITTING
    module.trainer = trainer
    module.configure_callbacks()


def test_layers_that_are_replaced_while_a_model_is_built_are_rejected(runs: SmallRuns) -> None:
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
def test_a_trial_of_parts_of_a_step_is_rejected(batches: int, accumulated: int, runs: SmallRuns) -> None:
    with pytest.raises(ValueError, match=f"fast_dev_run = {batches} batches are no whole optimizer steps"):
        trained(runs, "tuning", fast_dev_run=batches, accumulate_grad_batches=accumulated)


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
    kind: str, options: dict[str, Any], runs: SmallRuns, plain: dict[str, dict[str, Tensor]]
) -> None:
    settings = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    data = {"instances": {"validation": 1}}
    quiet = {"logger": None, "enable_progress_bar": None, "enable_model_summary": None, "enable_checkpointing": None}
    try:
        trainer = trained(runs, kind, data=data, **{**(quiet if "barebones" in options else {}), **options})
    finally:
        torch.use_deterministic_algorithms(settings[0])
        torch.backends.cudnn.benchmark = settings[1]
    assert trainer.global_step == STEPS
    for name, weight in weights_of(trainer.lightning_module).items():
        assert torch.equal(weight, plain[kind][name]), name
    if options.get("limit_val_batches") and options["val_check_interval"] != timedelta(hours=1):
        assert any(name.startswith("validation/") for name in trainer.callback_metrics)


@pytest.mark.parametrize(("kind", "accumulated"), [("tuning", 2), ("tuning", 4), ("scorer", 2)])
def test_accumulated_batches_have_the_same_losses(kind: str, accumulated: int, runs: SmallRuns) -> None:
    losses = []
    without_dropout = {"network": Network(dropout=0.0)} if kind == "scorer" else {}  # each batch drops other units
    slow = Optimization(learning_rate=1e-4)  # Adam enlarges rounding
    for batches in (1, accumulated):
        module, data = runs(kind, optimizer=slow, **without_dropout)
        trainer = small_trainer(STEPS, accumulate_grad_batches=batches)
        trainer.fit(module, datamodule=data)
        losses.append(trainer.callback_metrics["train/loss"].item())
    together, apart = losses
    assert apart == pytest.approx(together, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_run_works(kind: str, runs: SmallRuns) -> None:
    module, data = runs(kind)
    trainer = L.Trainer(accelerator="cpu", devices=1, fast_dev_run=4, enable_progress_bar=False)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 4


@pytest.mark.parametrize(("algorithm", "value"), [("norm", 1e-3), ("value", 1e-4)])
@pytest.mark.parametrize("kind", ["tuning", "scorer"])
def test_clipping_does_what_it_says(kind: str, algorithm: str, value: float, runs: SmallRuns) -> None:
    sizes: list[float] = []

    def note(trainer: Any, module: Any, optimizer: Any) -> None:
        parts = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        if not parts:  # before the first step
            return
        gradients = torch.cat(parts)
        sizes.append((gradients.norm() if algorithm == "norm" else gradients.abs().max()).item())

    options: dict[str, Any] = {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
    trained(runs, kind, **options, callbacks=[LambdaCallback(on_before_zero_grad=note)])
    assert max(sizes) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.float32), ("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_precision_is_that_of_the_weights(kind: str, precision: Any, dtype: torch.dtype, runs: SmallRuns) -> None:
    """Half-precision weights are rejected for finite differences."""
    if (kind, precision) == ("optimization", "bf16-true"):
        with pytest.raises(ValueError, match="finite differences need float32 weights"):
            trained(runs, kind, precision=precision)
        return
    module = trained(runs, kind, precision=precision).lightning_module
    assert {parameter.dtype for parameter in module.model.parameters()} == {dtype}


@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_that_watch_work_together(
    kind: str, runs: SmallRuns, plain: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    ended: list[int] = []
    watching = [
        DeviceStatsMonitor(cpu_stats=True),
        LambdaCallback(on_train_batch_end=lambda *arguments: ended.append(arguments[-1])),
        LearningRateMonitor(),
        ModelSummary(),
        RichModelSummary(),
        ThroughputMonitor(batch_size_fn=lambda batch: 1),
        Timer("00:01:00:00"),
        TQDMProgressBar(),
    ]
    options: dict[str, Any] = {"callbacks": watching, "log_every_n_steps": 1, "enable_progress_bar": True}
    logger = CSVLogger(tmp_path, name="")
    trainer = trained(runs, kind, **options, enable_model_summary=True, logger=logger)
    assert ended == list(range(STEPS))
    header = (tmp_path / "version_0/metrics.csv").read_text().partition("\n")[0]
    assert all(name in header for name in ("lr-AdamW", "device/", "DeviceStatsMonitor")) or "lr-AdamW" in header
    for name, weight in weights_of(trainer.lightning_module).items():
        assert torch.equal(weight, plain[kind][name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_stops_after_a_validation_within_the_training(kind: str, runs: SmallRuns) -> None:
    stop = EarlyStopping("validation/loss", patience=1, min_delta=100.0)
    options: dict[str, Any] = {"limit_val_batches": 1.0, "val_check_interval": 2, "callbacks": [stop]}
    trainer = trained(runs, kind, 12, **options)
    assert trainer.global_step == 4
    assert stop.stopped_epoch == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spent", [timedelta(0), {"seconds": 0}], ids=str)
def test_a_timer_stops_the_run(kind: str, spent: Any, runs: SmallRuns) -> None:
    assert trained(runs, kind, 5, max_time=spent).global_step <= 1


class Writer(BasePredictionWriter):
    written = 0

    def write_on_batch_end(self, *arguments: Any) -> None:
        self.written += 1


@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_evaluation_are_obeyed(kind: str, runs: SmallRuns) -> None:
    module, data = runs(kind, {"evaluation": {"batch_tokens": 512}})
    writer = Writer("batch")
    trainer = small_trainer(1, limit_test_batches=1, limit_predict_batches=2, callbacks=[writer])
    trainer.test(module, datamodule=data, verbose=False)
    assert trainer.callback_metrics
    trainer.predict(module, datamodule=data)
    assert writer.written == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_average_of_weights_is_what_is_validated_saved_and_exported(
    kind: str, runs: SmallRuns, tmp_path: Path
) -> None:
    """The mean of equal weights over all steps, by hand."""
    seen: list[dict[str, Tensor]] = []

    def note(trainer: Any, module: Any, *_: Any) -> None:
        seen.append(weights_of(module))

    average = WeightAveraging()
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=STEPS)
    callbacks: list[Any] = [average, LambdaCallback(on_train_batch_end=note), saved]
    if kind == "tuning":
        callbacks.append(HuggingFaceExport(str(tmp_path / "hf")))
    module = trained(runs, kind, callbacks=callbacks, enable_checkpointing=True).lightning_module
    expected = {name: torch.stack([each[name] for each in seen]).mean(dim=0) for name in seen[0]}
    states = torch.load(tmp_path / f"step={STEPS}.ckpt", weights_only=False)["state_dict"]
    for name, weight in weights_of(module).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(states[name], expected[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(seen[-1][name], expected[name], atol=1e-4) for name in expected)
    if kind == "tuning":
        export_checkpoint([str(tmp_path / f"step={STEPS}.ckpt"), str(tmp_path / "exported")])
        for folder in ("hf", "exported"):
            exported = AutoModelForCausalLM.from_pretrained(tmp_path / folder).state_dict()
            assert isinstance(module, InstructionTuningModule)
            for name, weight in module.language_model.state_dict().items():
                torch.testing.assert_close(exported[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_average_resumes_as_if_undisturbed(kind: str, runs: SmallRuns, tmp_path: Path) -> None:
    def averaging() -> list[Any]:
        saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        return [EMAWeightAveraging(decay=0.5), saved]

    undisturbed = trained(runs, kind, 4, callbacks=averaging(), enable_checkpointing=True).lightning_module
    module, data = runs(kind)
    again = small_trainer(4, callbacks=averaging(), enable_checkpointing=True)
    again.fit(module, datamodule=data, ckpt_path=str(tmp_path / "step=2.ckpt"))
    expected = weights_of(undisturbed)
    for name, weight in weights_of(module).items():
        assert torch.equal(weight, expected[name]), name


def test_preemption_before_an_average_is_rejected(runs: SmallRuns, tmp_path: Path) -> None:
    """It would save a step that the average lacks."""
    for callbacks in ([Preemption(), EMAWeightAveraging()], [WeightAveraging(), Preemption(), EMAWeightAveraging()]):
        saved = ModelCheckpoint(tmp_path, every_n_train_steps=1)
        with pytest.raises(ValueError, match=r"before .*WeightAveraging has averaged it: list it after"):
            trained(runs, "tuning", callbacks=[*callbacks, saved], enable_checkpointing=True)


@pytest.mark.parametrize(
    ("settings", "options", "files"),
    [
        ({"every_n_train_steps": 1, "save_top_k": -1}, {}, ["step=1", "step=2", "step=3"]),
        ({"every_n_train_steps": 2}, {}, ["step=2"]),
        ({}, {}, ["step=3"]),  # no validation: at the end
        ({"save_on_train_epoch_end": True}, {"check_val_every_n_epoch": None}, ["step=3"]),
        ({"save_top_k": -1}, {**EACH, "check_val_every_n_epoch": None}, ["step=1", "step=2", "step=3"]),
        ({"save_top_k": -1}, EACH, ["step=3"]),  # Lightning takes 1 batch for 1.0, the end of the epoch
        (
            {"monitor": "validation/loss", "save_last": True},
            {"limit_val_batches": 1.0, "val_check_interval": 3},
            ["last", "step=3"],
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["tuning", "optimization"])
def test_checkpoints_are_written_when_they_are_due(
    kind: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    files: list[str],
    runs: SmallRuns,
    tmp_path: Path,
) -> None:
    writer = ModelCheckpoint(tmp_path, filename="{step}", **settings)
    trained(runs, kind, callbacks=[writer], enable_checkpointing=True, **options)
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == files


def test_checkpoints_by_time_are_written_or_rejected(runs: SmallRuns, tmp_path: Path) -> None:
    """Lightning does not look at the time in manual optimization."""
    for kind in ("tuning", "optimization"):
        writer = ModelCheckpoint(tmp_path / kind, filename="{step}", train_time_interval=timedelta(0), save_top_k=-1)
        options: dict[str, Any] = {"callbacks": [writer], "enable_checkpointing": True}
        if kind == "optimization":
            with pytest.raises(ValueError, match="does not look at train_time_interval in manual optimization"):
                trained(runs, kind, **options)
        else:
            trained(runs, kind, **options)
            assert {path.stem for path in (tmp_path / kind).glob("*.ckpt")} == {"step=1", "step=2", "step=3"}


def test_steps_that_no_checkpoint_holds_are_reported(
    runs: SmallRuns, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for every, last in ((2, 4), (3, 3)):
        caplog.clear()
        with caplog.at_level("INFO"):
            writer = ModelCheckpoint(tmp_path, every_n_train_steps=every)
            trained(runs, "tuning", 5, callbacks=[writer], enable_checkpointing=True)
        assert f"the last checkpoint will be of step {last} of 5" in caplog.text
