"""`pretrained` and `config` of a model exclude each other: the one that comes last on the command line is used."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crosstask.commands.shared.linked_cli import overridden_source
from crosstask.commands.shared.settings_reader import SettingsReader

CONFIG = {"model_type": "llama", "hidden_size": 32}


@pytest.fixture
def files(toybench: Path, tmp_path: Path) -> dict[str, str]:
    """A recipe and two files that each set one source of weights, by name."""
    data = {
        "class_path": "InstructionTuningDataModule",
        "init_args": {
            "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}},
            "tokenizer": str(toybench / "tokenizer"),
        },
    }
    sources: dict[str, dict[str, Any]] = {
        "pretrained": {"pretrained": "opt-30b"},
        "config": {"config": CONFIG},
        "neither": {"pretrained": None, "config": None},
    }
    paths = {}
    for name, arguments in sources.items():
        settings = {"model": {"class_path": "InstructionTuningModule", "init_args": arguments}, "data": data}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        paths[name] = f"--config={tmp_path / name}.yaml"
    return paths


def sources_of(*words: str) -> tuple[Any, Any]:
    model = SettingsReader("crosstask plan", words).settings.as_dict()["model"]["init_args"]
    return model["pretrained"], model["config"]


def test_the_later_file_is_used_in_either_order(files: dict[str, str]) -> None:
    assert sources_of(files["pretrained"], files["config"]) == (None, CONFIG)
    assert sources_of(files["config"], files["pretrained"]) == ("opt-30b", None)
    assert sources_of(files["config"], files["pretrained"], files["neither"])[1] is None


def test_a_later_option_is_used_over_the_recipe(files: dict[str, str]) -> None:
    for option in ("--model.pretrained", "--model.init_args.pretrained"):
        assert sources_of(files["config"], option, "folder") == ("folder", None)
        assert sources_of(files["config"], f"{option}=folder") == ("folder", None)
    assert sources_of(files["pretrained"], "--model.config", "tiny.json") == (None, "tiny.json")
    assert sources_of("--config", files["config"].partition("=")[2], "--model.pretrained=x") == ("x", None)


def test_a_null_is_no_source_and_both_in_one_file_are_left_to_the_model(files: dict[str, str], tmp_path: Path) -> None:
    assert overridden_source([files["config"], "--model.pretrained=null"]) is None
    both = tmp_path / "both.yaml"
    both.write_text(yaml.safe_dump({"model": {"init_args": {"pretrained": "x", "config": CONFIG}}}))
    assert overridden_source([files["config"], f"--config={both}"]) is None
    assert overridden_source([f"--config={both}", files["config"]]) == "pretrained"
