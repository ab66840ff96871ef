"""The recipes of Cappy's pretraining: they parse, and say what the paper says."""

from pathlib import Path

import pytest
import yaml

import crosstask
from crosstask.cli import main

CONFIGS = Path(crosstask.__file__).parent / "configs"


@pytest.mark.parametrize(("names", "encoder"), [(["base"], "roberta-base"), (["base", "large"], "roberta-large")])
def test_the_pretraining_recipes_parse(names: list[str], encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = [word for name in names for word in ("--config", str(CONFIGS / f"cappy_{name}.yaml"))]
    with pytest.raises(SystemExit):
        main(["fit", *files, "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    model, data = (found[part]["init_args"] for part in ("model", "data"))
    assert model["pretrained"] == data["tokenizer"] == f"FacebookAI/{encoder}"
    optimizer = model["optimizer"]
    assert (optimizer["learning_rate"], optimizer["warmup"], optimizer["weight_decay"]) == (1e-6, 0.1, 0.0)
    assert found["trainer"]["max_steps"] == 160_000_000 // 1024
    assert data["instances"]["train"] == 500_000
    assert data["instances"]["every_prompt"]
    runs = "runs/cappy" if names[-1] == "base" else "runs/cappy_large"  # the sizes do not overwrite each other
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == runs
    (kept,) = (each for each in found["trainer"]["callbacks"] if each["class_path"].endswith("ModelCheckpoint"))
    assert kept["init_args"]["dirpath"] == f"{runs}/checkpoints"
    assert len(data["benchmark"]["init_args"]["rows"]) == 39


@pytest.mark.real_data
def test_every_dataset_of_the_recipe_has_templates() -> None:
    from crosstask.datamodules.benchmarks import PromptSource

    recipe = yaml.safe_load((CONFIGS / "cappy_base.yaml").read_text())
    named = recipe["data"]["init_args"]["benchmark"]["init_args"]["rows"]
    assert set(named) <= set(PromptSource("$CROSSTASK_DATA/promptsource/templates").task_names("train"))


@pytest.mark.parametrize("command", ["samples", "adapt"])
def test_the_recipes_of_adaptation_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--config", str(CONFIGS / "cappy" / f"bigbench_{command}.yaml"), "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    benchmark = found["train"] if command == "adapt" else found["examples"]["benchmark"]
    assert benchmark["init_args"]["tasks"] == "cappy"
    if command == "adapt":
        assert (found["training"]["steps"], found["training"]["batch"]) == (400, 256)
        assert found["training"]["learning_rate"] == 2e-5
