"""The command line as its users run it: main([...]) on YAML files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from argument_groups import with_changes
from recipes import save_model, store_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import crosstask
from crosstask.cli import main, program
from crosstask.commands.shared.config_names import composed_settings
from crosstask.commands.shared.linked_cli import LinkedCLI
from crosstask.commands.shared.trainer import run_trainer

CONFIGS = Path(crosstask.__file__).parent / "configs"


@pytest.fixture
def config(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> Path:
    """The quickstart's YAML and one override: a tiny model, short training, this test's folders."""
    return shrink("quickstart", toybench, tmp_path, {"config": tiny_model})


def shrink(name: str, toybench: Path, tmp_path: Path, model: dict[str, Any], **data: Any) -> Path:
    """A recipe as it ships, with what makes it small laid over it; saved, so that one --config runs it."""
    recipe = composed_settings(name)
    trainer = recipe["trainer"]
    trainer.setdefault("callbacks", composed_settings("run/default")["trainer"]["callbacks"])
    trainer |= {"accelerator": "cpu", "devices": 1, "precision": "32-true", "max_steps": 4}
    trainer |= {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 2}
    trainer |= {"log_every_n_steps": 1, "num_sanity_val_steps": 0}
    trainer |= {"accumulate_grad_batches": min(trainer.get("accumulate_grad_batches", 1), 2)}
    trainer["default_root_dir"] = str(tmp_path / "run")
    for callback in trainer["callbacks"]:
        if callback["class_path"] == "ModelCheckpoint":
            callback["init_args"] |= {"dirpath": str(tmp_path / "checkpoints"), "every_n_train_steps": 2}
    arguments = recipe["model"]["init_args"]
    arguments |= {"pretrained": None} | model
    arguments["optimizer"] = arguments.get("optimizer", {}) | {"warmup": 1}
    arguments["network"] = arguments.get("network", {}) | {"compile": False}
    small = {
        "rows": {"length": 128, "per_step": 4},
        "evaluation": {"max_new_tokens": 6},
        "instances": {"test": 1, "validation": 1},
    }
    small |= {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}},
        "tokenizer": str(toybench / "tokenizer"),
        "cache": str(store_of(toybench)),
    }
    recipe["data"]["init_args"] = with_changes(recipe["data"]["init_args"], small, data)
    path = tmp_path / f"{Path(name).name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_fit_validate_test_and_predict(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", str(config)])
    shown = capfd.readouterr().out
    assert "Training" in shown
    assert "Epoch" not in shown  # of which a planned stream has none
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    runs = tmp_path / "run"
    fitted = next(runs.glob("version_0/huggingface"))
    assert yaml.safe_load((runs / "version_0/config.yaml").read_text())["trainer"]["max_steps"] == 4

    faster = ["--model.init_args.optimizer.learning_rate", "0.5"]
    cli = run_trainer(["test", "--config", str(config), "--ckpt_path", checkpoint, *faster])
    assert cli.model.optimization.learning_rate == 0.5  # a checkpoint does not change the model's arguments
    report = json.loads((runs / "version_1/report/test/report.json").read_text())
    assert [level["name"] for level in report["levels"]] == [
        "fully_supervised",
        "partially_supervised",
        "fully_held_out",
    ]
    assert all(level["tasks"] > 0 for level in report["levels"])
    lines = [json.loads(line) for line in (runs / "version_1/predictions/test.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == list(range(len(lines)))
    assert len(lines) == sum(level["estimates"]["rouge_l"]["count"] for level in report["levels"])

    main(["validate", "--config", str(config), "--ckpt_path", checkpoint, "--trainer.limit_val_batches", "1.0"])
    assert (runs / "version_2/report/validation/report.md").exists()
    main(["predict", "--config", str(config), "--ckpt_path", checkpoint])
    predicted = [json.loads(line) for line in (runs / "version_3/predictions/predict.jsonl").read_text().splitlines()]
    assert predicted == lines  # predict answers the test's prompts

    assert_the_exported_folder_answers_alike(fitted, lines)


def assert_the_exported_folder_answers_alike(folder: Path, lines: list[dict[str, Any]]) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert model.config._attn_implementation == "sdpa"  # how rows were packed is not part of the export
    for line in lines[:8]:
        ids = torch.tensor([tokenizer(line["prompt"], add_special_tokens=False)["input_ids"]])
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).strip() == line["prediction"]


# The recipes of other modules have other arguments, and are run in test_scorer.py and test_instruction_optimization.py;
# those of a cluster are planned in test_resource_plan.py, and those of the small T5 run in test_t5_recipes.py.
RECIPES = [
    name
    for path in sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("papers/*.yaml")])
    if (name := str(path.relative_to(CONFIGS).with_suffix("")))
    and (recipe := composed_settings(name)).get("model", {}).get("class_path") == "InstructionTuningModule"
    and not isinstance(recipe["trainer"].get("strategy"), dict)
    and not name.startswith("t5_small")
]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_through_its_own_file(
    name: str, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    fields = dict(tiny_model)
    if "opt_" in name:  # the recipe's dropout is a setting of OPT
        fields = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64}
        fields |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256}
    model: dict[str, Any] = {"config": fields}
    alone = {"lora": ("lora_", "opt"), "prefix": ("prefix", "t5"), "finetuned": ("", "t5")}.get(name.rpartition("_")[2])
    if alone:  # the recipe starts from weights, and may train other parameters beside them
        vocabulary = len(AutoTokenizer.from_pretrained(toybench / "tokenizer"))
        model = {"pretrained": str(save_model(alone[1], tmp_path, vocabulary))}
    config = shrink(name, toybench, tmp_path, model)
    cli = run_trainer(["fit", "--config", str(config), "--trainer.max_steps", "2"])
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    trained = [name for name, parameter in cli.model.named_parameters() if parameter.requires_grad]
    assert alone is None or all(alone[0] in parameter for parameter in trained)


def test_settings_of_large_models_train_here_too(config: Path) -> None:
    """Half precision with float32 weights, recomputed activations and dropped embeddings, together."""
    words = ["--trainer.max_steps", "2", "--trainer.precision", "bf16-mixed"]
    words += ["--model.init_args.network.gradient_checkpointing", "true"]
    cli = run_trainer(["fit", "--config", str(config), *words, "--model.init_args.network.embedding_dropout", "0.1"])
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert {parameter.dtype for parameter in cli.model.parameters()} == {torch.float32}
    assert cli.model.language_model.is_gradient_checkpointing


def test_an_encoder_decoder_model_takes_the_same_road(toybench: Path, tmp_path: Path) -> None:
    fields = {"model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    fields |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = shrink("quickstart", toybench, tmp_path, {"config": fields}, rows={"target_length": 32})
    main(["fit", "--config", str(config), "--trainer.max_steps", "2"])
    few = ["--trainer.limit_test_batches", "2"]
    cli = run_trainer(["test", "--config", str(config), "--ckpt_path", str(tmp_path / "checkpoints/last.ckpt"), *few])
    assert 0 <= cli.trainer.callback_metrics["test/rouge_l"] <= 1


def parsed(config: Path, *words: str) -> Any:
    return LinkedCLI(["--config", str(config), *words], run=False).config


@pytest.fixture
def plain(config: Path) -> Path:
    """The YAML without a subcommand."""
    return config


@pytest.mark.parametrize(
    ("source", "value", "target"),
    [
        ("data.init_args.tokenizer", "some/tokenizer", "tokenizer"),
        ("data.init_args.rows.length", "64", "row_length"),
        ("trainer.max_steps", "7", "total_steps"),
    ],
)
def test_what_model_and_data_must_agree_on_is_linked(plain: Path, source: str, value: str, target: str) -> None:
    linked = parsed(plain, f"--{source}", value)["model"]["init_args"][target]
    assert str(linked) == value


def test_help_explains_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["fit", "--model.help", "InstructionTuningModule"], "Peak of the schedule"),
        (["fit", "--data.help", "InstructionTuningDataModule"], "Tokens of a row"),
        (["toybench", "--help"], "Instances of each"),
        (["toybench", "--help"], "usage: crosstask toybench"),
        (["samples", "--help"], "\n\nGenerate responses"),
        (["fit", "--help"], "usage: crosstask fit --config FILE [options]\n\nTrain a model"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.init_args.rows.per_step", "3", "--trainer.accumulate_grad_batches", "2"], "multiple of 2"),
        (["--trainer.max_steps", "-1"], r"set trainer.max_steps \(an epoch of this mixture has \d+\)"),
        (["--data.init_args.rows.length", "512"], "exceeds the 256 positions"),
        (["--model.init_args.optimizer.warmup", "9"], "warmup = 9 exceeds the 4 steps of the training: .* a share"),
        (["--data.init_args.rows.target_length", "16"], "leave out the datamodule's target_length"),
    ],
)
def test_impossible_settings_are_rejected_before_training(config: Path, words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        main(["fit", "--config", str(config), *words])


def test_the_program_says_what_it_rejects_without_the_calls_that_led_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["crosstask", "report", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=f"^crosstask: .*{tmp_path}"):
        program()
    monkeypatch.setenv("CROSSTASK_TRACEBACK", "1")
    with pytest.raises(ValueError, match=str(tmp_path)):
        program()


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (
            "fit",
            ["--data.init_args.rows.length=-5"],
            "InstructionTuningModule: rows.length must be at least 1, got -5",
        ),
        ("describe", ["--data.init_args.rows.length=-5"], "Rows: rows.length must be at least 1, got -5"),
        (
            "fit",
            ["--trainer.callbacks+=Stragglers", "--trainer.callbacks.every=0"],
            "Stragglers: every must be at least 1",
        ),
        ("fit", ["--trainer.strategy=fsdp"], "the trainer cannot be built .* requires a GPU accelerator"),
        ("fit", ["--trainer.strategy=deepspeed"], "DeepSpeed is only supported on CUDA devices"),
        ("fit", ["--trainer.max_steps=-5"], "`max_steps` must be a non-negative integer or -1"),
    ],
)
def test_what_a_yaml_cannot_build_is_said_in_a_sentence(
    config: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str], said: str
) -> None:
    monkeypatch.setattr("sys.argv", ["crosstask", command, "--config", str(config), *words])
    with pytest.raises(SystemExit, match=f"^crosstask: {said}") as refused:
        program()
    assert len(str(refused.value)) < 400


def test_an_error_of_a_library_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask.cli.main", lambda: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):
        program()


def test_instruction_optimization_is_described_and_has_nothing_to_prepare(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = composed_settings("instruction_optimization_toybench")
    benchmark = {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}}
    changes = {"benchmark": benchmark, "tokenizer": str(toybench / "tokenizer"), "instances": {"train": 8}}
    recipe["data"]["init_args"] = with_changes(recipe["data"]["init_args"], changes)
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump(recipe))
    main(["describe", "--config", str(config), "--depth", "1"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["level", "inner", "outer"]
    main(["prepare", "--config", str(config)])
    assert "InstructionOptimizationDataModule has nothing to prepare" in capsys.readouterr().out
