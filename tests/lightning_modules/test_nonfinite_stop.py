"""Steps that are not finite: where training stops, what it says and keeps, and what the dump computes again."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bilevel_runs import Make
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from poison import Poison
from recipes import save_model, store_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstask.cli import main
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.scorer_settings import PairRows
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.planned_training import PlannedTraining
from crosstask.lightning_modules.scorer import ScorerModule
from crosstask.lightning_modules.sharding.checkpoint_weights import module_weights
from crosstask.lightning_modules.step_dumps import read_batches
from crosstask.lightning_modules.step_replay import replay_step

FAST = Optimization(learning_rate=0.01)
ENCODER = {"model_type": "roberta", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
ENCODER |= {"num_attention_heads": 2, "max_position_embeddings": 130}
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
QUIET |= {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "max_steps": 4}
Pair = tuple[PlannedTraining, L.LightningDataModule]


@pytest.fixture
def make_pair(
    toybench: Path, tiny_model: dict[str, Any], make_datamodule: Any, make_bilevel: Make
) -> Callable[[str], Pair]:
    """Module and datamodule of a recipe."""
    tokenizer = str(toybench / "tokenizer")

    def make(name: str) -> Pair:
        torch.manual_seed(0)
        if name == "optimization":
            return make_bilevel(total_steps=4)
        if name == "scorer":
            rows = PairRows(length=256, pair_length=96, per_step=2)
            scorer = ScorerModule(tokenizer, config=ENCODER, optimizer=FAST, row_length=256)
            held_out = Instances(validation=0)
            folder = NaturalInstructions(str(toybench))
            return scorer, ScorerDataModule(
                folder, tokenizer, rows=rows, instances=held_out, cache=str(store_of(toybench))
            )
        return InstructionTuningModule(tokenizer, config=tiny_model, optimizer=FAST, row_length=128), make_datamodule()

    return make


def stopped(pair: Pair, folder: Path, *callbacks: L.Callback, **options: Any) -> tuple[str, Path]:
    """The message with which a training stops, and its dump."""
    saved = ModelCheckpoint(
        dirpath=folder / "saved", filename="last", every_n_train_steps=1, enable_version_counter=False
    )
    trainer = L.Trainer(default_root_dir=str(folder), callbacks=[*callbacks, saved], **{**QUIET, **options})
    with pytest.raises(ValueError, match="not finite") as caught:
        trainer.fit(*pair)
    [dump] = folder.glob("not-finite-step-*")
    return str(caught.value), dump


@pytest.mark.parametrize(
    ("name", "parameter", "inner"),
    [
        ("tuning", "layers.1.mlp.down_proj.weight", "model.model.layers.1.mlp.down_proj"),
        ("scorer", "classifier.out_proj.bias", "model.classifier.out_proj"),
        ("optimization", "layers.0.mlp.up_proj.weight", "model.model.layers.0.mlp.up_proj"),
    ],
)
def test_a_poisoned_weight_stops_the_step_that_reads_it(
    name: str, parameter: str, inner: str, make_pair: Callable[[str], Pair], tmp_path: Path, capsys: Any
) -> None:
    message, dump = stopped(make_pair(name), tmp_path, Poison(parameter))
    assert message.startswith("step 2 is not finite: ")
    assert "loss nan" in message
    assert f"Weights were not finite before it: model.{inner.partition('.')[2]}" in message or parameter in message
    assert dump == tmp_path / "not-finite-step-2"
    fault = json.loads((dump / "fault.json").read_text())
    assert f"{fault['examples'][0][0]} ({fault['examples'][0][1]}" in message  # task and example id
    good = dict(module_weights(tmp_path / "saved/last.ckpt"))
    assert all(tensor.isfinite().all() for tensor in good.values())
    assert torch.load(tmp_path / "saved/last.ckpt", weights_only=True)["global_step"] == 1
    main(["replay", str(dump)])
    printed = capsys.readouterr().out
    assert f"first module whose output is not finite: {inner} (batch 1)" in printed
    assert "loss: nan, gradient norm nan" in printed


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_infinite_gradient_changes_no_weight(
    value: float, fused: bool, make_pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    poison = Poison("embed_tokens.weight", within="gradient", value=value)
    module, data = make_pair("tuning")
    module.optimization = replace(FAST, fused=fused)
    message, dump = stopped((module, data), tmp_path, poison, gradient_clip_val=1.0)
    assert message.startswith("step 2 is not finite")
    assert f"gradient norm {value}" in message
    before, after_one = dict(module_weights(dump / "weights.ckpt")), dict(module_weights(tmp_path / "saved/last.ckpt"))
    assert before.keys() == after_one.keys()
    assert all(torch.equal(before[name], after_one[name]) for name in before)
    replayed = replay_step(dump)
    assert replayed.module is None
    assert replayed.lines()[-1].startswith("all values are finite here")


@pytest.mark.parametrize(("steps", "reached"), [(2, 2), (4, 2)])
def test_a_fused_optimizer_skips_the_step_and_the_run_stops_at_the_next_one(
    steps: int, reached: int, make_pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    module, data = make_pair("scorer")
    module.optimization = replace(FAST, fused=True)
    poison = Poison("classifier.dense.weight", within="gradient")
    options = {**QUIET, "max_steps": steps, "enable_checkpointing": False}
    trainer = L.Trainer(default_root_dir=str(tmp_path), callbacks=[poison], **options)
    with pytest.raises(ValueError, match=r"step 2 is not finite: loss .*, gradient norm nan"):
        trainer.fit(module, data)
    assert trainer.global_step == reached
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    state = next(iter(trainer.optimizers[0].state.values()))
    assert state["step"].item() == 1
    assert state["exp_avg"].isfinite().all()
    fault = json.loads((tmp_path / "not-finite-step-2/fault.json").read_text())
    batches = read_batches(tmp_path / "not-finite-step-2")
    assert len(batches) == 1  # the second step's, not the third's
    assert fault["step"] == 2


@pytest.mark.parametrize("name", ["tuning", "scorer"])
def test_a_replay_computes_what_the_run_computed(name: str, make_pair: Callable[[str], Pair], tmp_path: Path) -> None:
    """Two accumulated batches with dropout: the loss and gradient norm of the run, before they were poisoned."""
    norms = [0.0]

    class Norms(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
            norms.append(
                torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item()
            )
            next(module.parameters()).grad.fill_(math.nan if trainer.global_step == 2 else 0.0)

    pair = make_pair(name)
    message, dump = stopped(pair, tmp_path, Norms(), accumulate_grad_batches=2)
    replayed = replay_step(dump)
    assert len(replayed.batches) == 2
    assert replayed.norms["loss"] == pytest.approx(norms[-1], rel=1e-5)
    assert f"loss {replayed.losses['loss']:.4g}"[:9] in message


@pytest.mark.parametrize("preset", ["paper", "released_code"])
def test_a_poisoned_hypergradient_moves_no_instruction(
    preset: str, make_bilevel: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poisoned(InstructionOptimizationModule):
        def _outer_loss(self, rows: Any) -> Tensor:
            return super()._outer_loss(rows) * math.inf

    module, data = make_bilevel(data={"preset": preset})
    module.__class__ = Poisoned
    message, dump = stopped((module, data), tmp_path)
    assert message.startswith("step 3 is not finite: hypergradient nan")
    assert "the gradient of outer_loss (inf) is not finite" in message
    fault = json.loads((dump / "fault.json").read_text())
    assert {task for task, _ in fault["examples"]} & {task.name for task, _ in data.plan.outer}  # type: ignore[union-attr]
    saved = dict(module_weights(dump / "weights.ckpt"))
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_a_weight_that_no_step_reads_reaches_no_checkpoint(make_pair: Callable[[str], Pair], tmp_path: Path) -> None:
    """A row of the table whose token is in no document: losses and gradients stay finite."""
    module, data = make_pair("tuning")
    saved = ModelCheckpoint(dirpath=tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    poison = Poison("embed_tokens.weight", step=(3,))
    trainer = L.Trainer(callbacks=[poison, saved], **QUIET)
    with pytest.raises(
        ValueError, match=r"the checkpoint that would be written has values .* model.model.embed_tokens"
    ):
        trainer.fit(module, data)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("skips", [1, 3])
def test_loss_scaling_skips_steps_and_counts_them(skips: int, make_pair: Callable[[str], Pair], tmp_path: Path) -> None:
    module, data = make_pair("tuning")
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0))
    poison = Poison("embed_tokens.weight", step=range(1, skips + 1), within="gradient", value=math.inf)
    trainer = L.Trainer(
        plugins=[scaled], callbacks=[poison], default_root_dir=str(tmp_path), enable_checkpointing=False, **QUIET
    )
    if skips == 1:
        trainer.fit(module, data)
        assert module.skipped_steps == 1
        return
    with pytest.raises(ValueError, match="step 2 is not finite"):  # scales 2, 1 and below
        trainer.fit(module, data)


def test_evaluation_and_export_reject_poisoned_weights(
    make_pair: Callable[[str], Pair], tmp_path: Path, toybench: Path
) -> None:
    module, data = make_pair("tuning")
    trainer = L.Trainer(**{**QUIET, "max_steps": 1, "limit_val_batches": 1}, enable_checkpointing=False)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    checkpoint = torch.load(tmp_path / "good.ckpt", weights_only=True)
    checkpoint["state_dict"]["model.model.norm.weight"][0] = math.inf
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    for evaluate in (trainer.test, trainer.validate, trainer.predict):
        with pytest.raises(ValueError, match=r"the model that .* has values that are not finite .*norm.weight"):
            evaluate(module, datamodule=data, ckpt_path=tmp_path / "bad.ckpt", weights_only=True)
    with pytest.raises(ValueError, match="the model that would be exported has values that are not finite"):
        main(["export", str(tmp_path / "bad.ckpt"), str(tmp_path / "exported")])
    assert not list((tmp_path / "exported").glob("*.safetensors"))
    main(["export", str(tmp_path / "good.ckpt"), str(tmp_path / "exported")])


def test_poisoned_folders_of_models_are_rejected(toybench: Path, tmp_path: Path) -> None:
    folder = save_model("opt", tmp_path, len(load_tokenizer(str(toybench / "tokenizer"))))
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.layers.0.fc1.bias"][3] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    module = InstructionTuningModule(str(toybench / "tokenizer"), str(folder), row_length=128)
    with pytest.raises(ValueError, match=r"opt has values that are not finite .* model.decoder.layers.0.fc1.bias"):
        module.configure_model()


def test_a_folder_that_is_no_dump_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the dump of a step"):
        main(["replay", str(tmp_path)])
    with pytest.raises(ValueError, match="replay takes one folder"):
        main(["replay", "a", "b"])
