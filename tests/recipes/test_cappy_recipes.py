"""The recipes of Cappy's pretraining: they parse, and say what the paper says."""

import pytest
import yaml

from crosstask.cli import main
from crosstask.commands.shared.config_names import composed_settings


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
    assert len(data["benchmark"]["init_args"]["rows"]) == 39


@pytest.mark.real_data
def test_every_dataset_of_the_recipe_has_templates() -> None:
    from crosstask.datamodules.benchmarks import PromptSource

    recipe = composed_settings("papers/cappy_base")
    benchmark = recipe["data"]["init_args"]["benchmark"]["init_args"]
    templates = "$CROSSTASK_DATA/promptsource/templates"
    published = PromptSource(templates, original_task=benchmark["original_task"]).task_names("train")
    assert set(benchmark["rows"]) <= set(published)


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
