"""The commands of docs/first_run.md run one after another, in small."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from own_files import own_model, own_task

import crosstask
from crosstask.cli import main

PAGE = (Path(crosstask.__file__).parent / "docs/first_run.md").read_text(encoding="utf-8")
SMALL = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--data.evaluation.max_new_tokens=4"]


def commands() -> list[list[str]]:
    """The words of every command in the page's blocks that is not abbreviated."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if " ... " not in line]
    return [shlex.split(line, comments=True) for line in lines]


def test_the_commands_of_the_page_run(toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("facebook").mkdir()
    own_model(toybench, tmp_path).rename("facebook/opt-125m")
    own_task(tmp_path / "mine")
    first, resumed = commands()
    store = f"--data.cache={tmp_path / 'store'}"
    main([*first[1:], *SMALL, store, "--data.rows.per_step=1", "--trainer.max_steps=2"])
    main([*resumed[1:], "--trainer.max_steps=3"])
    assert torch.load("runs/fit-1/checkpoints/last.ckpt", weights_only=False)["global_step"] == 3
