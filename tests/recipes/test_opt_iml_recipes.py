"""The models of OPT-IML (arXiv 2212.12017): each recipe has the paper's values, and starts through its own file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recipes import store_of
from transformers import OPTConfig, OPTForCausalLM

from crosstask.cli import main
from crosstask.commands.shared.config_names import composed_settings, configs_folder
from crosstask.commands.shared.trainer import run_trainer
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.toybench.families import write_families

MODELS = {  # name: (steps, rows of a step, replicas x processes of a replica, rows of a batch)
    "opt_iml_1.3b": (4000, 256, (1, 1), 8),
    "opt_iml_30b": (4000, 256, (32, 2), 4),
    "opt_iml_175b": (8000, 128, (16, 8), 1),
    "opt_iml_max_1.3b": (6000, 256, (1, 1), 8),
    "opt_iml_max_30b": (6000, 256, (32, 2), 4),
    "opt_iml_max_175b": (12000, 128, (16, 8), 1),
}
COLLECTIONS = [
    "super_natural_instructions",
    "promptsource",
    "flan",
    "crossfit",
    "exmix",
    "t5",
    "unifiedskg",
    "reasoning",
]


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_has_the_papers_values(name: str) -> None:
    """Table 3 (batch, learning rate, warm-up, steps, Adam, clipping, dropout) and section 4 (mixture)."""
    recipe = composed_settings(f"papers/{name}")
    trainer, model, data = recipe["trainer"], recipe["model"]["init_args"], recipe["data"]["init_args"]
    steps, rows, (replicas, processes), rows_of_batch = MODELS[name]
    assert (trainer["max_steps"], trainer["gradient_clip_val"]) == (steps, 1.0)
    assert replicas * rows_of_batch * trainer["accumulate_grad_batches"] == rows == data["rows"]["per_step"]
    tensor_parallel = trainer["strategy"]["init_args"]["tensor_parallel_size"] if processes > 1 else 1
    assert tensor_parallel == processes  # 64 GPUs for 30B, 128 for 175B
    optimizer = model["optimizer"]
    assert (optimizer["learning_rate"], optimizer["warmup"], optimizer["betas"]) == (5e-5, 60, [0.9, 0.95])
    assert (model["network"]["dropout"], model["network"]["embedding_dropout"]) == (0.1, 0.1)
    assert (data["rows"]["length"], data["bos"]) == (2048, False)
    mixture = data["mixture"]
    assert mixture["cap"] == 4096
    percent = {name: round(100 * share) for name, share in mixture["proportions"].items()}
    published = {"crossfit": 4, "exmix": 2, "flan": 20, "super_natural_instructions": 25, "promptsource": 45}
    assert percent == published | {"t5": 2, "unifiedskg": 2}
    assert {name: stream["share"] for name, stream in mixture["extra"].items()} == {
        "reasoning": 0.01,
        "pretraining": 0.05,
    }
    assert mixture["extra"]["pretraining"]["unit"] == "rows"
    assert data["instances"]["validation_prompts"] == 250
    assert data["evaluation"] == {"max_new_tokens": 256, "ranking": {}}  # section 4.1
    benchmark = data["benchmark"]["init_args"]
    assert benchmark["rules"] == ("all" if "max" in name else "opt_iml")
    assert set(COLLECTIONS) <= set(benchmark["collections"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toybench: Path) -> Path:
    """A data folder of small files of every family, and a random OPT of two layers."""
    root = tmp_path_factory.mktemp("opt")
    families = root / "families"
    write_families(families)
    for rows, place in (
        ("promptsource/rte", "promptsource/rows/train/super_glue_rte"),
        ("flan/rte", "flan/rows/train/rte"),
        ("flan/rte", "flan/rows/test/rte"),
    ):
        (families / f"{place}.jsonl").parent.mkdir(parents=True)
        shutil.copy(families / f"{rows}.jsonl", families / f"{place}.jsonl")
    shutil.copy(families / "arc/ARC-Easy/ARC-Easy-Dev.jsonl", families / "arc/ARC-Easy/ARC-Easy-Test.jsonl")
    natural = families / "superni"
    (natural / "tasks").mkdir(parents=True)
    (natural / "splits/default").mkdir(parents=True)
    task = "task641_esnli_classification"
    shutil.copy(sorted((toybench / "tasks").glob("*.json"))[0], natural / f"tasks/{task}.json")
    (natural / "splits/default/test_tasks.txt").write_text(f"{task}\n")
    shutil.rmtree(families / "t5")  # a collection that was not downloaded
    tokenizer = load_tokenizer(str(toybench / "tokenizer"))
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **shape)
    OPTForCausalLM(config).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    return root


def shrunk(name: str, folder: Path, toybench: Path, tmp_path: Path) -> Path:
    """The recipe with a small model, short rows and a processor in place of the weights, 2,048 tokens and GPUs."""
    recipe: dict[str, Any] = composed_settings(f"papers/{name}")
    recipe["trainer"] |= {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "bf16-mixed",  # the recipes' own, or in place of the sharded strategies' compute_dtype
    }
    recipe["trainer"] |= {
        "max_steps": 2,
        "accumulate_grad_batches": 2,
        "limit_val_batches": 0,
        "val_check_interval": None,
    }
    recipe["trainer"] |= {
        "default_root_dir": str(tmp_path / "run"),
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
    }
    recipe["model"]["init_args"] |= {"pretrained": str(folder / "model")}
    recipe["model"]["init_args"]["network"] |= {"compile": False}  # it takes minutes, see test_compiled_training.py
    recipe["model"]["init_args"]["optimizer"] |= {"warmup": 1}
    optimizer = recipe["model"]["init_args"]["optimizer"]
    assert optimizer["fused"]  # with clipping in bf16-mixed, which Lightning itself rejects
    assert recipe["trainer"]["gradient_clip_val"]
    data = recipe["data"]["init_args"]
    data["rows"] |= {"length": 512, "per_step": 4}
    data |= {"cache": str(store_of(toybench))}
    collections = data["benchmark"]["init_args"]["collections"]
    natural = collections["super_natural_instructions"]["init_args"]
    natural |= {"folder": str(toybench)}
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_starts_through_its_own_file(
    name: str, folder: Path, toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs_folder()  # sets CROSSTASK_CONFIGS, as the program does
    monkeypatch.setenv("CROSSTASK_DATA", str(folder / "families"))
    cli = run_trainer(["fit", "--config", str(shrunk(name, folder, toybench, tmp_path))])
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    trained = {
        task.benchmark for task in map(cli.datamodule.benchmark.task, cli.datamodule.benchmark.task_names("train"))
    }
    assert "super_natural_instructions" in trained
    assert {"crossfit", "exmix", "reasoning"} <= trained
    assert {"t5", "pretraining"} <= set(cli.datamodule.benchmark.missing)  # reported, and the others share
    if "max" in name:
        assert {"promptsource", "flan"} <= trained  # RTE is held out by the other models


TABLES = {
    "bbh": {"bbh/reasoning_about_colored_objects"},
    "flan": {"flan/rte"},
    "mmlu": {"mmlu/anatomy", "mmlu/astronomy", "mmlu/virology"},
    "opt_tasks": {"opt/rte", "opt_test/arc_easy"},
    "opt_tasks_gpt3": {"opt/rte", "opt_test/arc_easy"},
    "raft": {"raft/twitter_complaints"},
    "super_natural_instructions_44": {"sni/task641_esnli_classification"},
    "super_natural_instructions_119": {"sni/task641_esnli_classification"},
    "unifiedskg": {"unifiedskg/spider"},
}
"""Tasks that the small files have of each table of configs/evaluation; they may have more."""

REAL = {"cappy_eleven", "promptsource"}
"""Tables of PromptSource's real templates, which test_recipes_of_papers.py evaluates."""


def test_every_table_of_evaluation_is_listed() -> None:
    assert set(TABLES) | REAL == {path.stem for path in (configs_folder() / "evaluation").glob("*.yaml")}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_evaluated_on_small_files(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTASK_DATA", str(folder / "families"))
    monkeypatch.chdir(tmp_path)
    few = {"instances.test": "2", "rows.length": "512", "evaluation.max_new_tokens": "8"}
    if name != "super_natural_instructions_119":  # its prompts have the task's own demonstrations
        few["evaluation.shots"] = "1"
    words = [word for option, value in few.items() for word in (f"--data.init_args.{option}", value)]
    model = ["--model.init_args.pretrained", str(folder / "model"), "--trainer.accelerator", "cpu"]
    main(["test", "--config", f"evaluation/{name}", *model, *words])
    report = json.loads((tmp_path / f"runs/evaluation/{name}/version_0/report/test/report.json").read_text())
    run = {task["task"]: task["run"] for task in report["coverage"]["tasks"] if task["run"]}
    assert {task: run.get(task) for task in TABLES[name]} == dict.fromkeys(TABLES[name], 2)
    assert all(task["run"] or task["missing"] for task in report["coverage"]["tasks"])
