"""The recipes of instruction optimization, run as they ship: rows of the tables, two processes, what is learned."""

import csv
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from argument_groups import with_changes
from bilevel_runs import CONFIGS, DATA, INNER_STEPS, T5, texts
from recipes import few_tasks
from torch.testing import assert_close
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.commands.shared.config_names import composed_settings
from crosstask.commands.shared.linked_cli import LinkedCLI
from crosstask.commands.shared.trainer import run_trainer
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.lightning_modules.hypergradients import Hypergradient, hypergradient
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule


def shrunk(name: str, toybench: Path, tmp_path: Path, fields: dict[str, Any], **trainer: Any) -> Path:
    """A recipe as it ships, with what makes it small laid over it."""
    recipe = composed_settings(name)
    recipe["trainer"] |= {
        "accelerator": "cpu",
        "max_steps": 7,
        "val_check_interval": 4,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    recipe["trainer"] |= {"default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False, **trainer}
    for callback in recipe["trainer"]["callbacks"]:
        if callback["class_path"] == "ModelCheckpoint":
            callback["init_args"] |= {"dirpath": str(tmp_path), "every_n_train_steps": 7}
    shared = {"row_length": DATA["rows"]["length"], "inner_steps": INNER_STEPS}
    preset = {"preset": recipe["data"]["init_args"]["preset"]}
    recipe["model"]["init_args"] |= {"pretrained": None, "config": fields, **shared, **preset}
    recipe["model"]["init_args"]["instruction"]["length"] = DATA["instructions"]["length"]
    recipe["model"]["init_args"]["optimizer"]["warmup"] = 1
    recipe["model"]["init_args"]["outer"] |= {"calibrate_every": 1}
    splits = few_tasks(toybench, tmp_path / "splits", trained=40)
    benchmark = {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench), "splits": splits}}
    split = {"class_path": "CategorySplit", "init_args": {"outer": 4}}
    tokenizer = str(toybench / "tokenizer")
    data = {**DATA, **preset, "benchmark": benchmark, "tokenizer": tokenizer, "split": split}
    data["instances"] = {**DATA["instances"], "test": 1}
    recipe["data"]["init_args"] = with_changes(recipe["data"]["init_args"], data)
    for room, kind in (("model", InstructionOptimizationModule), ("data", InstructionOptimizationDataModule)):
        recipe[room]["class_path"] = f"{kind.__module__}.{kind.__qualname__}"
    path = tmp_path / f"{Path(name).name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("name", ["instruction_optimization_toybench", "papers/instruction_optimization"])
def test_every_recipe_trains_and_answers_through_its_own_file(
    name: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    config = shrunk(name, toybench, tmp_path, T5 if name.startswith("papers") else tiny_model)
    cli = run_trainer(["fit", "--config", str(config)])
    assert (cli.trainer.global_step, cli.model.outer_step) == (7, 2)
    logged = cli.trainer.callback_metrics
    for value in ("inner_loss", "outer_loss", "hypergradient_norm", "fd_relative_error"):
        assert torch.isfinite(logged[f"train/{value}"])
    assert (tmp_path / "run/version_0/huggingface/config.json").exists()
    main(["test", "--config", str(config), "--ckpt_path", str(tmp_path / "last.ckpt")])
    assert (tmp_path / "run/version_1/report/test/report.json").exists()
    page = (tmp_path / "run/version_1/report/test/report.html").read_text()
    assert (
        page.count("<figcaption>Norms of the inner and the outer gradient")
        == page.count('<th scope="col">learned</th>')
        == 1
    )


TABLES = {  # name: (texts before "Now complete", exemplars, outer tasks and something to learn)
    "definition": ("Definition", 0, False),
    "definition_positive": ("Definition Positive", 0, False),
    "definition_positive_negative": ("Definition Positive Negative", 0, False),
    "definition_positive_negative_explanation": ("Definition Positive Explanation Negative Explanation", 0, False),
    "direct_embedder": ("", 0, True),
    "instance_embedder": ("", 0, True),
    "definition_direct_embedder": ("Definition", 0, True),
    "definition_instance_embedder": ("Definition", 0, True),
    "random_exemplar_per_task": ("", 1, False),
    "random_exemplar_per_instance": ("", 1, False),
    "blank": ("", 2, False),
    "direct_extractor": ("", 4, True),
    "instance_extractor": ("", 4, True),
}


def test_every_row_of_the_tables_has_its_file() -> None:
    assert {path.stem for path in (CONFIGS / "papers/instruction_tables").glob("*.yaml")} == set(TABLES)


@pytest.mark.parametrize("row", TABLES)
def test_every_row_of_the_tables_reads_as_the_paper_has_it(
    row: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    """With the recipe overridden: the text before an inner instance, and the prompt of the test."""
    config = shrunk("papers/instruction_optimization", toybench, tmp_path, T5)
    overlay = yaml.safe_load((CONFIGS / f"papers/instruction_tables/{row}.yaml").read_text())
    before, exemplars, learns = TABLES[row]
    changes: dict[str, Any] = {"rows": {"length": 400}}
    if exemplars:
        changes["instructions"] = {"length": 24, "exemplars": exemplars} if learns else {"length": 24}
    overlay["data"]["init_args"] = with_changes(overlay["data"]["init_args"], changes)
    assert overlay.pop("include") == ["papers/instruction_optimization"]
    laid = tmp_path / "overlay.yaml"
    laid.write_text(yaml.safe_dump(overlay))
    words = ["--config", str(config), "--config", str(laid)]
    cli = LinkedCLI(words, run=False, save_config_callback=None)
    module, data = cli.model, cli.datamodule
    data.setup("fit")
    data.setup("test")
    batch = data.plan.batch(INNER_STEPS - 1, Replicas())
    assert (batch.outer is not None) == learns
    ids = batch.inner.inputs.exemplar_ids
    assert (0 if ids is None else ids.shape[1]) == exemplars
    text = texts(data, batch.inner.rows)[0].split("Now complete the following example")[0]
    marks = sorted(
        (found.start(), word) for word in set(before.split()) for found in re.finditer(f"{word}( Example|:)", text)
    )
    assert " ".join(word for _, word in marks) == before
    asked = data.stage("test").examples[0].source
    assert ("Definition: " in asked) == (not exemplars)
    assert asked.count("Positive Example") == (1 if exemplars else 0)
    assert module.instruction_settings.kind == overlay["model"]["init_args"]["instruction"]["kind"]
    rate = overlay["model"]["init_args"].get("outer", {"learning_rate": 1e-5})["learning_rate"]
    assert (module.outer.learning_rate, module.outer.calibrate_every) == (rate, 1)  # the recipe's others remain


@pytest.mark.distributed
@pytest.mark.parametrize(("strategy", "instruction"), [("ddp", "direct_embedder"), ("fsdp2", "direct_extractor")])
def test_two_processes_find_the_hypergradient_of_one(
    strategy: str, instruction: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any], program: WarmProgram
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
    options = {"network.dtype": "float64", "outer.gamma": 0.1, "outer.noise_every": 1}
    options |= {"optimizer.learning_rate": 0.01, "instruction.kind": instruction}
    words = ["fit", "--config", str(config)]
    words += [word for name, value in options.items() for word in (f"--model.init_args.{name}", str(value))]
    if instruction == "direct_extractor":  # an exemplar's embeddings are rows of the sharded table
        words += ["--data.init_args.instructions.exemplars", "3", "--data.init_args.instructions.length", "24"]
    run_trainer(words)
    alone = torch.load(tmp_path / "last.ckpt", weights_only=False)
    (tmp_path / "last.ckpt").unlink()
    words += ["--trainer.devices", "2"]
    if strategy == "ddp":
        words += ["--trainer.strategy", "ddp"]
    else:
        words += ["--trainer.strategy=ShardedStrategy", "--trainer.strategy.save_distributed_checkpoint=false"]
    for done in program.ranks(2, *words):
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
    example = runpy.run_path(str(CONFIGS.parent / "experiments/exemplar_or_blank.py"))

    def exemplar_shares() -> list[float]:
        benchmark, tokenizer = example["NaturalInstructions"](str(toybench)), str(toybench / "tokenizer")
        setting = example["SMALL"]._replace(steps=40)
        shares: list[float] = example["fitted"](benchmark, tokenizer, "direct_extractor", setting, seed=0)[-1]
        return shares

    shares = exemplar_shares()
    assert shares[0] == 0.0
    assert shares[-1] > 0.5

    def uphill(*arguments: Any, **options: Any) -> Hypergradient:
        found = hypergradient(*arguments, **options)
        return found._replace(gradients=[-gradient for gradient in found.gradients])

    monkeypatch.setattr("crosstask.lightning_modules.instructions.outer_level.hypergradient", uphill)
    assert max(exemplar_shares()) < 0.2
