"""Recipes of docs/migration.md are accepted, and the options of its tables are options."""

import re
from pathlib import Path

import pytest
import yaml

import crosstask
from crosstask.cli import main

PAGE = (Path(crosstask.__file__).parent / "docs/migration.md").read_text(encoding="utf-8")
VALUES = {  # where an option's value has a form of its own
    "benchmark": "mine.jsonl",
    "revision": "main",
    "proportions": "{a: 0.5}",
    "packing": "best_fit",
    "schedule": "cosine",
    "precision": "bf16-mixed",
    "attention": "sdpa",
    "target_modules": "[q_proj]",
    "strategy": "ddp",
    "gradient_checkpointing": "true",
    "dropout": "0.1",
    "pretrained": "owner/name",
    "warmup": "0.1",
    "default_root_dir": "out",
}


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_recipe_of_the_page_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    settings = printed(["--config", str(tmp_path / "mine.yaml")], capsys)
    assert settings["model"]["init_args"]["lora"]["r"] == 16
    assert settings["model"]["init_args"]["optimizer"]["schedule"] == "cosine"
    assert settings["data"]["init_args"]["rows"]["per_step"] == 16


def test_the_options_of_the_table_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    options = [option for cell in cells for option in re.findall(r"`((?:model|data|trainer)[.\w]+)`", cell)]
    assert len(options) >= 25
    words = [f"--{option}={VALUES.get(option.rpartition('.')[2], '1')}" for option in options]
    settings = printed(words, capsys)
    for option in options:
        room, *path = option.split(".")
        value = settings[room] if room == "trainer" else settings[room]["init_args"]
        for name in path:
            value = value[name]
        assert value not in (None, ""), option
