"""Every callback of Lightning works or is rejected, as the docs' table says."""

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
from small_runs import SmallRuns, small_trainer, weights_of
from torch import Tensor
from trainer_fits import KINDS, STEPS, reject_at_start, rows, trained
from transformers import AutoModelForCausalLM

from crosstask.callbacks import HuggingFaceExport, Preemption
from crosstask.commands.export import export_checkpoint
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule


class Finetuning(BaseFinetuning):
    """Freezes a part of the model."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None: ...

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Any) -> None: ...


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


def test_every_callback_has_a_row() -> None:
    assert list(rows("Callbacks")) == list(lightning_callbacks.__all__)


def test_what_the_page_says_is_rejected_is_tested_and_nothing_else() -> None:
    kinds = {kind for make, _, _ in REJECTED_CALLBACKS for kind in type(make()).__mro__}
    said = {name for name, outcome in rows("Callbacks").items() if "rejected" in outcome}
    assert said == {kind.__name__ for kind in kinds} & {*lightning_callbacks.__all__} - {"Callback", "Checkpoint"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "options", "said"), REJECTED_CALLBACKS)
def test_a_callback_is_rejected_at_the_start(
    kind: str, make: Any, options: dict[str, Any], said: str, small_runs: SmallRuns
) -> None:
    module, data = small_runs(kind)
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


@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_that_watch_work_together(
    kind: str, small_runs: SmallRuns, plain_weights: dict[str, dict[str, Tensor]], tmp_path: Path
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
    trainer = trained(small_runs, kind, **options, enable_model_summary=True, logger=logger)
    assert ended == list(range(STEPS))
    header = (tmp_path / "version_0/metrics.csv").read_text().partition("\n")[0]
    assert all(name in header for name in ("lr-AdamW", "device/", "DeviceStatsMonitor")) or "lr-AdamW" in header
    for name, weight in weights_of(trainer.lightning_module).items():
        assert torch.equal(weight, plain_weights[kind][name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_stops_after_a_validation_within_the_training(kind: str, small_runs: SmallRuns) -> None:
    stop = EarlyStopping("validation/loss", patience=1, min_delta=100.0)
    options: dict[str, Any] = {"limit_val_batches": 1.0, "val_check_interval": 2, "callbacks": [stop]}
    trainer = trained(small_runs, kind, 12, **options)
    assert trainer.global_step == 4
    assert stop.stopped_epoch == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spent", [timedelta(0), {"seconds": 0}], ids=str)
def test_a_timer_stops_the_run(kind: str, spent: Any, small_runs: SmallRuns) -> None:
    assert trained(small_runs, kind, 5, max_time=spent).global_step <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_average_of_weights_is_what_is_validated_saved_and_exported(
    kind: str, small_runs: SmallRuns, tmp_path: Path
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
    module = trained(small_runs, kind, callbacks=callbacks, enable_checkpointing=True).lightning_module
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
def test_an_average_resumes_as_if_undisturbed(kind: str, small_runs: SmallRuns, tmp_path: Path) -> None:
    def averaging() -> list[Any]:
        saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        return [EMAWeightAveraging(decay=0.5), saved]

    undisturbed = trained(small_runs, kind, 4, callbacks=averaging(), enable_checkpointing=True).lightning_module
    module, data = small_runs(kind)
    again = small_trainer(4, callbacks=averaging(), enable_checkpointing=True)
    again.fit(module, datamodule=data, ckpt_path=str(tmp_path / "step=2.ckpt"))
    expected = weights_of(undisturbed)
    for name, weight in weights_of(module).items():
        assert torch.equal(weight, expected[name]), name


def test_preemption_before_an_average_is_rejected(small_runs: SmallRuns, tmp_path: Path) -> None:
    """It would save a step that the average lacks."""
    for callbacks in ([Preemption(), EMAWeightAveraging()], [WeightAveraging(), Preemption(), EMAWeightAveraging()]):
        saved = ModelCheckpoint(tmp_path, every_n_train_steps=1)
        with pytest.raises(ValueError, match=r"before .*WeightAveraging has averaged it: list it after"):
            trained(small_runs, "tuning", callbacks=[*callbacks, saved], enable_checkpointing=True)
