"""Every snippet of the README runs, on the embedded benchmark, with small models and few steps."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes import few_tasks, save_model, store_of
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification
from warm_program import WarmProgram

import crosstask
from crosstask.datamodules.rendering.tokenization import load_tokenizer

README = (Path(crosstask.__file__).parent / "README.md").read_text(encoding="utf-8")
SHRINK: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "precision": "32-true",
        "max_steps": 2,
        "accumulate_grad_batches": 1,
        "val_check_interval": 2,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "num_sanity_val_steps": 0,
    },
    "model": {"init_args": {"network": {"compile": False}, "optimizer": {"warmup": 0.5}}},
    "data": {
        "init_args": {
            "rows": {"length": 128, "per_step": 4},
            "instances": {"validation": 1, "test": 1},
            "evaluation": {"max_new_tokens": 3},
        }
    },
}
"""Added to every command that trains or evaluates."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def home(toybench: Path, tmp_path_factory: pytest.TempPathFactory, program: WarmProgram) -> Iterator[Path]:
    """A folder where the README's names exist: upstream's files, models of the hub, and programs that run quickly."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(toybench, folder / "natural-instructions")
    few_tasks(toybench, folder / "natural-instructions/splits/default")  # in place of upstream's 757
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    (folder / "facebook").mkdir()
    model = save_model("opt", folder, len(load_tokenizer(str(toybench / "tokenizer"))))
    model.rename(folder / "facebook/opt-1.3b")
    tokenizer.save_pretrained(folder / "facebook/opt-1.3b")
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        max_position_embeddings=514,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder / "btan2/cappy-large")
    tokenizer.save_pretrained(folder / "btan2/cappy-large")
    data = {"init_args": {**SHRINK["data"]["init_args"], "cache": str(store_of(toybench))}}
    (folder / "shrink.yaml").write_text(yaml.safe_dump(SHRINK | {"data": data}))
    programs = folder / "programs"
    programs.mkdir()
    (programs / "git").write_text("#!/usr/bin/env bash\nexit 0\n")  # what it would clone is there
    (programs / "git").chmod(0o755)
    shrink = ["--config", str(folder / "shrink.yaml")]
    appended = {"toybench": ["--instances", "130"], "fit": shrink, "test": shrink}
    with program.command(programs / "crosstask", appended=appended):
        yield folder


def require_success(done: "subprocess.CompletedProcess[str]") -> str:
    """What a finished process has printed."""
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.split("\n")[0][:40])
def test_a_block_of_commands_runs(block: str, home: Path) -> None:
    environment = os.environ | {"PATH": f"{home / 'programs'}:{os.environ['PATH']}", "HOME": str(home)}
    words = ["bash", "-euo", "pipefail", "-c", block]
    require_success(subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, check=False))


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0][:60])
def test_a_block_of_python_runs(block: str, home: Path, program: WarmProgram) -> None:
    assert require_success(program.script(block, cwd=home, HOME=str(home))).strip()


def test_the_readme_has_both_kinds_of_snippets_and_stays_short() -> None:
    assert len(blocks("bash")) >= 3
    assert len(blocks("python")) >= 3
    assert len(README.splitlines()) <= 120
