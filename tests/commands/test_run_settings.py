"""prepare, describe and decontaminate read the settings of any run, as fit does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes import store_of

from crosstask.cli import main

Recipe = Callable[[str], Path]
MODULES = ["tuning", "scorer", "optimization"]


@pytest.fixture
def recipe(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> Recipe:
    """A whole recipe of a module: trainer with callbacks, model and data."""
    shared: dict[str, Any] = {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}},
        "tokenizer": str(toybench / "tokenizer"),
    }
    stored = {"cache": str(store_of(toybench))}
    answers = {"evaluation": {"max_new_tokens": 8}}
    levels = {"inner_steps": 2, "inner_rows": 4, "outer_rows": 4}
    parts: dict[str, tuple[str, str, dict[str, Any]]] = {
        "tuning": (
            "InstructionTuningModule",
            "InstructionTuningDataModule",
            {"rows": {"length": 128, "per_step": 4}, **answers, **stored},
        ),
        "scorer": (
            "ScorerModule",
            "ScorerDataModule",
            {"rows": {"length": 256, "pair_length": 128, "per_step": 4}, **stored},
        ),
        "optimization": (
            "InstructionOptimizationModule",
            "InstructionOptimizationDataModule",
            {
                "split": {"class_path": "CategorySplit", "init_args": {"outer": 3}},
                "rows": {"length": 192},
                "levels": levels,
                **answers,
            },
        ),
    }

    def write(kind: str) -> Path:
        module, datamodule, data = parts[kind]
        settings = {
            "seed_everything": 0,
            "trainer": {"accelerator": "cpu", "max_steps": 4, "callbacks": [{"class_path": "PackingSummary"}]},
            "model": {"class_path": module, "init_args": {"config": tiny_model}},
            "data": {"class_path": datamodule, "init_args": {**shared, **data}},
            "ckpt_path": None,  # as a saved config.yaml has it
        }
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


@pytest.mark.parametrize("kind", ["tuning", "scorer"])
def test_a_run_is_prepared_and_described_from_its_whole_recipe(
    kind: str, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(recipe(kind))
    main(["prepare", "--config", path, "--config", path, "--trainer.max_steps", "2", "--processes", "1"])
    assert "tasks written" in capsys.readouterr().out
    main(["describe", "--config", path, "--config", path, "--trainer.max_steps=2", "--depth", "1"])
    two = capsys.readouterr().out
    assert "super_natural_instructions" in two
    main(["describe", "--config", path, "--trainer.max_steps=4", "--model.init_args.seed", "1", "--depth", "1"])
    assert capsys.readouterr().out != two, "the number of steps decides the draws"


@pytest.mark.parametrize("kind", MODULES)
def test_training_and_evaluation_of_any_run_are_compared(
    kind: str, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "contamination"
    main(["decontaminate", "--config", str(recipe(kind)), "--trainer.max_steps", "2", "--folder", str(folder)])
    assert (folder / "report.md").exists()
    assert str(folder / "decisions.tsv") in capsys.readouterr().out


def test_data_alone_are_enough(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(recipe("tuning").read_text())
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": settings["data"]}))
    main(["describe", "--config", str(tmp_path / "data.yaml"), "--depth", "1"])
    assert "super_natural_instructions" in capsys.readouterr().out


def test_a_setting_that_no_run_has_is_rejected_without_the_trainers_options(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["describe", "--config", str(recipe("tuning")), "--trainer.max_step", "2"])
    error = capsys.readouterr().err
    assert error.startswith("usage: crosstask describe --config FILE [options]\n")
    assert "max_step" in error
    assert len(error) < 600
