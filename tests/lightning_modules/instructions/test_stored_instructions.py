"""Learned instructions as a result: exported by callback and command, started from, and applied to another model."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from bilevel_runs import INNER_STEPS, Make, make_runs, trainer
from recipes import save_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from crosstask.callbacks import HuggingFaceExport
from crosstask.commands.export import export_checkpoint
from crosstask.datamodules.bilevel.exemplars import InstructionInputs
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.adapters import LoRA
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instructed_loss import input_embeddings
from crosstask.lightning_modules.instructions.instruction_start import InstructionStart
from crosstask.lightning_modules.instructions.learnable_instructions import (
    Instruction,
    LearnableInstruction,
    ModelFunctions,
    fully_attended,
)
from crosstask.lightning_modules.instructions.stored_instructions import (
    StoredInstructions,
    apply_stored,
    read_instructions,
)
from crosstask.lightning_modules.module_loading import load_module

EXTRACTS: dict[str, Any] = {"instructions": {"exemplars": 3, "length": 24}}


class FirstValues(L.Callback):
    """The parameters of the instruction before the first step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, InstructionOptimizationModule)
        assert pl_module.instruction is not None
        self.values = {name: value.clone() for name, value in pl_module.instruction.state_dict().items()}


def trained(make_bilevel: Make, folder: Path, **options: Any) -> InstructionOptimizationModule:
    """A short training that leaves ``folder/huggingface`` by the callback and ``folder/exported`` by the command."""
    module, datamodule = make_bilevel(**options)
    saved = L.pytorch.callbacks.ModelCheckpoint(folder, every_n_train_steps=INNER_STEPS, filename="last")
    trainer(INNER_STEPS, callbacks=[saved, HuggingFaceExport(str(folder / "huggingface"))]).fit(module, datamodule)
    export_checkpoint([str(folder / "last.ckpt"), str(folder / "exported")])
    return module


def started(make_bilevel: Make, start: InstructionStart, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """A short training, and the values with which its instruction started."""
    module, datamodule = make_bilevel(start=start, **options)
    first = FirstValues()
    trainer(INNER_STEPS, callbacks=[first], enable_checkpointing=False).fit(module, datamodule)
    return module, first.values


class Trained(NamedTuple):
    """A module after a short training, and its folder."""

    module: InstructionOptimizationModule
    folder: Path


@pytest.fixture(scope="module")
def table(toybench: Path, tiny_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Learned embeddings."""
    folder = tmp_path_factory.mktemp("table")
    return Trained(trained(partial(make_runs, toybench, tiny_model), folder), folder)


@pytest.fixture(scope="module")
def choices(toybench: Path, tiny_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Learned choices of exemplars."""
    folder = tmp_path_factory.mktemp("choices")
    make = partial(make_runs, toybench, tiny_model)
    return Trained(trained(make, folder, instruction="direct_extractor", data=EXTRACTS), folder)


def test_callback_and_command_export_what_was_learned(choices: Trained) -> None:
    module, folder = choices
    stored = read_instructions(folder / "exported")
    again = read_instructions(folder / "huggingface/learned_instructions")
    assert stored.description == again.description
    assert_close(stored.values, again.values)
    assert_close(stored.values["logits"], module.phi[0].detach())
    assert (stored.description["kind"], stored.description["exemplars"]) == ("direct_extractor", 3)
    plan = module.trainer.datamodule.plan  # type: ignore[attr-defined]
    assert stored.tasks == [task.name for task, _ in plan.inner]
    for place, (task, examples) in enumerate(plan.inner):
        [chosen] = stored.description["chosen"][task.name]
        assert chosen["exemplar"] == module.phi[0][place, 0].argmax()
        # An instance's own exemplar is replaced, so that the text is in the batches of most of a task's instances.
        drawn = [plan.text.pools.draw(examples, examples[index])[chosen["exemplar"]] for index in range(len(examples))]
        assert sum(f"Input: {e.input}" in chosen["text"] for e in drawn) >= len(examples) - 1
    assert (folder / "exported/config.json").exists()


def test_a_run_starts_from_stored_values_and_trains_them(make_bilevel: Make, table: Trained) -> None:
    learned = table.module.phi[0].detach()
    start = InstructionStart(stored=str(table.folder / "exported"))
    again, first = started(make_bilevel, start)
    assert_close(first["table"], learned)
    assert not torch.equal(again.phi[0], learned)
    _, noisy = started(make_bilevel, InstructionStart(stored=start.stored, noise=0.1))
    moved = (noisy["table"] - learned).square().mean().sqrt() / learned.square().mean().sqrt()
    assert moved.item() == pytest.approx(0.1, rel=0.1)


def test_frozen_instructions_are_read_by_another_model_and_stay(make_bilevel: Make, table: Trained) -> None:
    learned = table.module.phi[0].detach()
    frozen = InstructionStart(stored=str(table.folder / "exported"), frozen=True)
    module, _ = started(make_bilevel, frozen, clip=0.5)
    assert (module.phi, module.outer_step, module.outer_level) == ([], 0, None)
    assert_close(module.instruction.table.detach(), learned)
    other, _ = started(make_bilevel, InstructionStart(stored=frozen.stored, frozen=True, noise=1.0), clip=0.5)
    assert not torch.equal(module.theta[0], other.theta[0])  # the instructions make a difference


def test_a_checkpoint_of_adapters_holds_frozen_instructions(make_bilevel: Make, toybench: Path, tmp_path: Path) -> None:
    weights = save_model("opt", tmp_path, len(load_tokenizer(str(toybench / "tokenizer"))))
    lora = LoRA(r=2, target_modules=["q_proj", "v_proj"])
    options: dict[str, Any] = {"config": None, "pretrained": str(weights), "lora": lora}
    module = trained(make_bilevel, tmp_path, start=InstructionStart(frozen=True), clip=0.5, **options)
    values = read_instructions(tmp_path / "exported").values
    assert torch.equal(values["table"], module.instruction.table)  # type: ignore[union-attr, arg-type]
    loaded = load_module("InstructionOptimizationModule", tmp_path / "last.ckpt")
    assert torch.equal(loaded.instruction.table, values["table"])  # type: ignore[union-attr, arg-type]
    resumed, datamodule = make_bilevel(start=InstructionStart(frozen=True), clip=0.5, **options)
    resumed.fixed_settings = ()
    trainer(7).fit(resumed, datamodule, ckpt_path=str(tmp_path / "last.ckpt"))
    assert torch.equal(resumed.instruction.table, values["table"])  # type: ignore[union-attr, arg-type]


def test_definitions_are_embedded_repeated_and_cut(make_bilevel: Make) -> None:
    data: dict[str, Any] = {"instructions": {"length": 40}}
    module, first = started(make_bilevel, InstructionStart(definitions=True), data=data)
    tasks = [task for task, _ in module.trainer.datamodule.plan.inner]
    fresh, _ = make_bilevel(data=data)
    fresh.configure_model()
    table = input_embeddings(fresh.language_model).weight
    lengths = set()
    for task, row in zip(tasks, first["table"], strict=True):
        ids = module.tokenizer(task.definition, add_special_tokens=False)["input_ids"]
        lengths.add(len(ids) < 40)
        assert_close(row, table[torch.tensor((ids * 40)[:40])].detach())
    assert True in lengths


def test_a_checkpoint_names_its_tasks_and_resumes_over_a_start(make_bilevel: Make, table: Trained) -> None:
    module, datamodule = make_bilevel(start=InstructionStart(noise=0.5))
    module.fixed_settings = ()  # else another start is rejected
    first = FirstValues()
    path = str(table.folder / "last.ckpt")
    trainer(7, callbacks=[first], enable_checkpointing=False).fit(module, datamodule, ckpt_path=path)
    saved = torch.load(path, weights_only=True)
    assert_close(first.values["table"], saved["state_dict"]["instruction.table"])
    assert saved["crosstask"]["instruction"]["tasks"] == datamodule.inner_tasks


class Scaled(LearnableInstruction):
    """One embedding of each task, and one number that is not trained."""

    task_parameters = ("rows",)
    scale: Tensor

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.randn(tasks, 1, 4))
        self.register_buffer("scale", torch.rand(()))

    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
        return fully_attended(self.rows[inputs.tasks] * self.scale)


def test_buffers_of_a_class_of_ones_own_are_stored_with_its_parameters() -> None:
    learned, here = Scaled(2), Scaled(3)
    stored = StoredInstructions({"kind": "my.Scaled", "tasks": ["a", "b"]}, dict(learned.state_dict()))
    assert apply_stored(here, stored, "my.Scaled", ["b", "c", "a"]) == ["c"]
    assert_close(here.rows[[2, 0]], learned.rows)
    assert torch.equal(here.scale, learned.scale)
    more = stored._replace(values={**stored.values, "removed": torch.ones(1)})
    with pytest.raises(ValueError, match=r"values that my.Scaled lacks: removed; use the class and the options"):
        apply_stored(here, more, "my.Scaled", ["a"])


@pytest.fixture
def renumbered(toybench: Path, tmp_path: Path) -> Path:
    """The toy benchmark with a tokenizer of the same tokens, of which two have changed their ids."""
    folder = tmp_path / "renumbered"
    shutil.copytree(toybench, folder)
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    ids = content["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    path.write_text(json.dumps(content))
    return folder


def test_a_table_of_tokens_applies_to_its_tokenizer_alone(
    make_bilevel: Make, renumbered: Path, tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    learned = trained(make_bilevel, tmp_path, instruction="instance_embedder")
    start = InstructionStart(stored=str(tmp_path / "exported"))
    _, first = started(make_bilevel, start, instruction="instance_embedder")
    assert_close(first["texts.table.weight"], learned.instruction.texts.table.weight.detach())  # type: ignore[union-attr]
    elsewhere = partial(make_runs, renumbered, tiny_model)
    with pytest.raises(ValueError, match=r"same ids are other tokens here: set `tokenizer` to that of their training"):
        started(elsewhere, start, instruction="instance_embedder")
    module, datamodule = elsewhere(instruction="instance_embedder")
    with pytest.raises(ValueError, match="tokenizer"):
        trainer(7).fit(module, datamodule, ckpt_path=str(tmp_path / "last.ckpt"))


def test_embeddings_of_a_task_apply_to_another_tokenizer(
    table: Trained, renumbered: Path, tiny_model: dict[str, Any]
) -> None:
    start = InstructionStart(stored=str(table.folder / "exported"))
    _, first = started(partial(make_runs, renumbered, tiny_model), start)
    assert_close(first["table"], table.module.phi[0].detach())
    assert "vocabulary" not in read_instructions(table.folder / "exported").description


def test_what_does_not_fit_is_rejected(make_bilevel: Make, table: Trained, choices: Trained, tmp_path: Path) -> None:
    embedded = str(shutil.copytree(table.folder / "exported", tmp_path / "table"))
    chosen = str(choices.folder / "exported")
    other_seed: dict[str, Any] = {**EXTRACTS, "seed": 5}
    cases: list[tuple[InstructionStart, dict[str, Any], str]] = [
        (
            InstructionStart(stored=embedded),
            {"data": EXTRACTS, "instruction": "direct_extractor"},
            "are of kind direct_e",
        ),
        (
            InstructionStart(stored=embedded),
            {"data": {"instructions": {"length": 5}}},
            r"is \(4, 16\), and .* \(5, 16\)",
        ),
        (InstructionStart(stored=str(tmp_path / "none")), {}, "no learned instructions in"),
        (InstructionStart(stored=chosen), {"data": other_seed, "instruction": "direct_extractor"}, "has another text"),
        (InstructionStart(definitions=True), {"instruction": "instance_embedder"}, "only a direct_embedder starts"),
    ]
    for start, options, message in cases:
        with pytest.raises(ValueError, match=message):
            started(make_bilevel, start, **options)
    path = Path(embedded) / "learned_instructions/instructions.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"tasks": ["other", *described["tasks"][1:]]}))
    with pytest.raises(ValueError, match=r"inner tasks have no stored instruction: .*set the datamodule's split as it"):
        started(make_bilevel, InstructionStart(stored=embedded, frozen=True))
    values = load_file(path.with_name("instructions.safetensors"))["table"] + 1.0
    save_file({"table": values}, path.with_name("instructions.safetensors"))
    _, first = started(make_bilevel, InstructionStart(stored=embedded))  # the other tasks start from it
    assert torch.equal(first["table"][1:], values[1:])
    assert not torch.isclose(first["table"][0], values[0]).any()
    with pytest.raises(ValueError, match="has stored and definitions: set one"):
        InstructionStart(stored=embedded, definitions=True)
    with pytest.raises(ValueError, match="noise must be a share of 0 or more"):
        InstructionStart(noise=-1.0)
    with pytest.raises(ValueError, match="and finite, got inf"):
        InstructionStart(noise=float("inf"))
