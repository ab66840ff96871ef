"""What all modules share, from a plain script: training, clipping, dropout, and checkpoints that load by their path."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from recipes import save_model
from small_runs import ENCODER, QUIET, SmallRuns
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.planned_training import PlannedTraining
from crosstask.lightning_modules.scorer import ScorerModule


@pytest.fixture
def make_pair(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> SmallRuns:
    """Module and datamodule of a name, as a script makes them: with nothing that the trainer has already."""
    return SmallRuns(toybench, tmp_path, tiny_model)


def logits(module: PlannedTraining) -> Tensor:
    model: Any = module.model
    ids = torch.arange(5, 90, 11)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("name", ["tuning", "scorer", "optimization", "lora", "prefix"])
def test_a_checkpoint_loads_by_its_path_alone(name: str, make_pair: SmallRuns, tmp_path: Path) -> None:
    module, data = make_pair(name)
    trainer = L.Trainer(max_steps=3, **QUIET)  # no argument but its length
    trainer.fit(module, datamodule=data)
    assert module.total_steps == 3
    path = tmp_path / "trained.ckpt"
    trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["hyper_parameters"]["seed"] == 0  # plain values alone
    loaded = type(module).load_from_checkpoint(path)
    assert loaded.network == module.network
    assert loaded.optimization == module.optimization
    expected = logits(module)
    assert torch.equal(logits(loaded), expected)
    fresh, _ = make_pair(name)
    fresh.configure_model()
    assert not torch.allclose(logits(fresh), expected)  # so that the comparison above means something


def test_a_checkpoint_does_not_need_the_weights_that_training_started_from(toybench: Path, tmp_path: Path) -> None:
    tokenizer = str(toybench / "tokenizer")
    weights = save_model("opt", tmp_path, len(load_tokenizer(tokenizer)))
    module = InstructionTuningModule(tokenizer, str(weights), row_length=128)
    trainer = L.Trainer(**QUIET)
    trainer.strategy.connect(module)
    module.trainer = trainer
    module.configure_model()
    trainer.save_checkpoint(tmp_path / "all.ckpt")
    weights.rename(tmp_path / "elsewhere")
    assert torch.equal(logits(InstructionTuningModule.load_from_checkpoint(tmp_path / "all.ckpt")), logits(module))


@pytest.mark.parametrize(
    ("options", "change", "said"),
    [
        ({"max_epochs": 1}, {}, "counted in optimizer steps.* set trainer.max_steps"),
        (
            {"max_steps": 2},
            {"rows": {"length": 64}},
            "row_length is 128 in the module, and rows.length 64 in the datamodule",
        ),
    ],
)
def test_a_trainer_or_data_that_do_not_fit_are_rejected(
    options: dict[str, Any], change: dict[str, Any], said: str, make_pair: SmallRuns, make_datamodule: Any
) -> None:
    module, _ = make_pair("tuning")
    with pytest.raises(ValueError, match=said):
        L.Trainer(**options, **QUIET).fit(module, datamodule=make_datamodule(**change))


def test_another_tokenizer_is_rejected_and_a_copy_is_not(
    toybench: Path, tmp_path: Path, make_pair: SmallRuns, make_datamodule: Any
) -> None:
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    tokenizer.save_pretrained(tmp_path / "copy")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "other")
    L.Trainer(max_steps=1, **QUIET).fit(make_pair("tuning")[0], make_datamodule(tokenizer=str(tmp_path / "copy")))
    with pytest.raises(ValueError, match=r"the tokenizer is .* in the module and .*other in the datamodule"):
        L.Trainer(max_steps=1, **QUIET).fit(make_pair("tuning")[0], make_datamodule(tokenizer=str(tmp_path / "other")))


def test_a_fused_optimizer_clips_under_bf16(tiny_model: dict[str, Any], toybench: Path, make_datamodule: Any) -> None:
    """Lightning's own clipping stops at the first step of these three settings."""
    norms: list[float] = []

    class Norms(L.Callback):
        def on_before_zero_grad(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            norms.extend([torch.nn.utils.get_total_norm(gradients).item()] if gradients else [])

    fused = Optimization(learning_rate=0.01, fused=True)
    module = InstructionTuningModule(
        str(toybench / "tokenizer"), config={**tiny_model, "initializer_range": 0.5}, optimizer=fused, row_length=128
    )
    trainer = L.Trainer(max_steps=3, precision="bf16-mixed", gradient_clip_val=0.01, callbacks=[Norms()], **QUIET)
    trainer.fit(module, datamodule=make_datamodule())
    assert norms
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)


def test_weights_from_a_folder_train_with_dropout(toybench: Path, tmp_path: Path) -> None:
    """from_pretrained returns models in evaluation mode."""
    tokenizer = str(toybench / "tokenizer")
    vocabulary = len(load_tokenizer(tokenizer))
    opt = save_model("opt", tmp_path, vocabulary)
    fields = {name: value for name, value in ENCODER.items() if name != "model_type"}
    config = AutoConfig.for_model("roberta", vocab_size=vocabulary, num_labels=1, **fields)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "roberta")
    network = Network(dropout=0.5)
    modules: list[PlannedTraining] = [
        InstructionTuningModule(tokenizer, str(opt), network=network, row_length=128),
        ScorerModule(tokenizer, str(tmp_path / "roberta"), network=network, row_length=128),
    ]
    for module in modules:
        module.configure_model()
        assert module.model is not None
        assert module.model.training
        first, second = (module.model(torch.arange(5, 60)[None], torch.ones(1, 55, dtype=torch.long)) for _ in range(2))
        assert not torch.allclose(first.logits, second.logits)


def test_instruction_optimization_loads_without_its_instruction(make_pair: SmallRuns) -> None:
    module, _ = make_pair("optimization")
    assert isinstance(module, InstructionOptimizationModule)
    module.configure_model()
    assert module.instruction is None


@pytest.mark.parametrize("word", ["--optimizer=AdamW", "--lr_scheduler=StepLR"])
def test_lightnings_own_optimizers_are_not_offered(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", word])
    assert "nrecognized arguments" in capsys.readouterr().err
