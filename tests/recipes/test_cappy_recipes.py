"""The recipes of Cappy's pretraining: they parse, and say what the paper says."""

import json
import os
from pathlib import Path

import pytest
import yaml
from recipes import save_model
from t0_rows import t0_row
from transformers import AutoTokenizer

from crosstask.cli import main
from crosstask.commands.shared.config_names import INSTALLED, composed_settings
from crosstask.datamodules.benchmarks import PromptSource
from crosstask.lightning_modules import CrossEncoder

T0 = yaml.safe_load((INSTALLED / "data/benchmarks/t0.yaml").read_text())["init_args"]
"""The benchmark of the recipe."""

REAL_DATA = os.environ.get("CROSSTASK_DATA", "")


@pytest.mark.parametrize(("name", "encoder"), [("base", "roberta-base"), ("large", "roberta-large")])
def test_the_pretraining_recipes_parse(name: str, encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                "--config",
                f"papers/cappy_{name}",
                "--trainer.accelerator",
                "cpu",
                "--trainer.devices",
                "1",
                "--print_config",
            ]
        )
    found = yaml.safe_load(capsys.readouterr().out)
    model, data = (found[part]["init_args"] for part in ("model", "data"))
    assert (model["pretrained"], data["tokenizer"]) == (f"FacebookAI/{encoder}", "")  # the model's
    optimizer = model["optimizer"]
    assert (optimizer["learning_rate"], optimizer["warmup"], optimizer["weight_decay"]) == (1e-6, 0.1, 0.0)
    assert found["trainer"]["max_steps"] == 160_000_000 // 1024
    assert data["instances"]["train"] == 500_000
    assert data["instances"]["every_prompt"]
    assert found["trainer"]["default_root_dir"] == f"runs/cappy_{name}"  # the sizes do not overwrite each other
    assert len(data["benchmark"]["init_args"]["tasks"]) == 39
    assert not data["benchmark"]["init_args"]["original_task"]


@pytest.fixture
def t0_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with rows of every dataset of the recipe."""
    for task in T0["tasks"]:
        lines = "".join(json.dumps(t0_row(task, number)) + "\n" for number in range(6))
        path = tmp_path / f"data/promptsource/rows/train/{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines)
    monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path / "data"))
    return tmp_path / "data/promptsource"


def write_templates(folder: Path, task: str) -> None:
    """Two small templates of a dataset: one that generates a text, one with options if the dataset has labels."""
    columns = t0_row(task, 0)
    text = next(name for name, value in columns.items() if isinstance(value, str))
    templates = {"write": (f"Repeat: {{{{{text}}}}} ||| {{{{{text}}}}}", None)}
    if "label" in columns:
        choices = " ||| ".join("zero one two three four five six seven eight nine ten eleven twelve thirteen".split())
        templates["choose"] = (f"{{{{{text}}}}} Which? ||| {{{{answer_choices[label|int]}}}}", choices)
    original = json.dumps(task not in ("quarel", "kilt_tasks_hotpotqa", "app_reviews"))
    entries = [
        f"  {name}: !Template\n    name: {name}\n    answer_choices: {json.dumps(choices)}\n"
        f"    jinja: {json.dumps(jinja)}\n"
        f"    metadata: !TemplateMetadata {{original_task: {original}, metrics: [Accuracy]}}\n"
        for name, (jinja, choices) in templates.items()
    ]
    path = folder / f"templates/{task}/templates.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"dataset: {task}\ntemplates:\n{''.join(entries)}")


def test_two_commands_lead_from_upstream_files_to_a_pretrained_scorer(
    t0_data: Path, toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe in small: its datasets, one of which is gone from the hub, a generator, and a scorer that scores."""
    for task in T0["tasks"]:
        write_templates(t0_data, task)
    (t0_data / "rows/train/xsum.jsonl").unlink()
    tasks = {*T0["tasks"]} - {"xsum"}
    assert PromptSource(**{**T0, "tasks": T0["tasks"][:2]}).unread_lines() == []  # the others are there on purpose
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    generator = save_model("t5", tmp_path, len(tokenizer))
    tokenizer.save_pretrained(generator)
    samples = ["--output", str(tmp_path / "samples"), "--generator", str(generator), "--max_new_tokens", "4"]
    main(["samples", "--config", "papers/cappy_pretraining_samples", *samples, "--examples.train_examples", "8"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "has options (option_examples is false)" in printed
    assert "1 dataset is left out: xsum (no rows in" in printed
    [path] = (tmp_path / "samples").glob("*.jsonl")
    sampled = list(map(json.loads, path.read_text().splitlines()))
    assert {line["task"] for line in sampled} == tasks
    assert {line["id"].rpartition("-")[2] for line in sampled} == {"write"}
    assert {line["decoding"] for line in sampled} == {"top_k", "nucleus"}

    tiny = {"model_type": "roberta", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tiny |= {"num_attention_heads": 2, "max_position_embeddings": 70}
    changes = {
        "trainer": {"accelerator": "cpu", "devices": 1, "strategy": "auto", "max_steps": 2},
        "model.init_args": {"pretrained": None, "config": tiny},
        "data.init_args": {"tokenizer": str(toybench / "tokenizer"), "cache": str(tmp_path / "store")},
        "data.init_args.rows": {"length": 256, "pair_length": 64, "per_step": 4},
        "data.init_args.instances": {"train": 8},
        "data.init_args.augmentation": {"samples": [str(tmp_path / "samples")]},
    }
    changes["trainer"]["default_root_dir"] = str(tmp_path / "runs")
    words = [
        f"--{group}.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for group, of_group in changes.items()
        for name, value in of_group.items()
    ]
    main(["fit", "--config", "papers/cappy_base", *words])
    stored = {path.name.rpartition("-")[0] for path in (tmp_path / "store").iterdir() if path.name[0] != "."}
    assert stored >= tasks
    [folder] = (tmp_path / "runs").rglob("huggingface")
    scores = CrossEncoder.from_pretrained(str(folder), max_length=64).score(
        ["Repeat: It grows."] * 2, ["apple", "lemon"]
    )
    assert scores.isfinite().all()


@pytest.mark.real_data
def test_every_template_of_the_recipe_renders_a_row_of_its_dataset(t0_data: Path) -> None:
    """PromptSource's own templates, on rows in the columns of the hub: 318, of which 226 are of the original task."""
    settings = {**T0, "templates": f"{REAL_DATA}/promptsource/templates"}
    benchmark = PromptSource(**settings)
    rendered = {
        (name, example.template)
        for name in benchmark.task_names("train")
        for example in benchmark.examples(name)
        if not example.skipped
    }
    assert len(rendered) == 318
    assert {name for name, _ in rendered} == set(T0["tasks"])
    assert benchmark.left_out() == {}


@pytest.mark.parametrize("command", ["samples", "adapt"])
def test_the_recipes_of_adaptation_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--config", f"papers/cappy_bigbench_{command}", "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    benchmark = found["train"] if command == "adapt" else found["examples"]["benchmark"]
    assert benchmark["init_args"]["tasks"] == "cappy"
    if command == "adapt":
        assert (found["training"]["steps"], found["training"]["batch"]) == (400, 256)
        assert found["training"]["learning_rate"] == 2e-5


@pytest.mark.parametrize("kind", ["prefix", "finetuned"])
def test_trained_generators_read_the_tasks_and_prompts_of_the_samples(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", f"papers/cappy_flan_t5_{kind}", *words])
    recipe = yaml.safe_load(capsys.readouterr().out)
    examples = composed_settings("papers/cappy_bigbench_samples")["examples"]
    data, model = (recipe[part]["init_args"] for part in ("data", "model"))
    given = examples["benchmark"]["init_args"]
    assert {name: data["benchmark"]["init_args"][name] for name in given} == given
    given = examples["prompt"]["init_args"]
    assert {name: data["prompt"]["init_args"][name] for name in given} == given
    assert (model["prefix"] is None) == (kind == "finetuned")
    assert recipe["trainer"]["default_root_dir"] == f"runs/cappy_flan_t5_{kind}"
