"""The examples of rules in docs/data_formats.md: which tasks train and which are tested."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import crosstask
from crosstask.commands.shared.run_settings import Settings, build_data, run_on_settings
from crosstask.datamodules.benchmarks.bench import Bench

PAGE = (Path(crosstask.__file__).parent / "docs/data_formats.md").read_text(encoding="utf-8")


def block(title: str, number: int) -> str:
    """The YAML block of a number after a bold title."""
    return re.findall(r"```yaml\n(.*?)```", PAGE.partition(f"**{title}.**")[2], flags=re.DOTALL)[number]


@pytest.fixture
def here(tmp_path: Path, toybench: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the examples: own tasks and the toy benchmark."""
    for split, name in (
        ("train", "rhymes"), ("train", "sounds"), ("test", "sounds"), ("test", "secret"), ("test", "other")
    ):  # fmt: skip
        path = tmp_path / "mine" / split / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"input": f"{name} {i}", "output": f"{i}"}) + "\n" for i in range(20)))
    (tmp_path / "toybench").symlink_to(toybench)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def benchmark(*words: str) -> Bench:
    """The benchmark of a command line."""
    built: list[Any] = []

    def keep(settings: Settings) -> None:
        built.append(build_data(settings).benchmark)

    run_on_settings(keep, list(words))
    assert isinstance(built[0], Bench)
    return built[0]


def part(bench: Bench, split: str, collection: str) -> set[str]:
    """The names of a collection's tasks in a split."""
    return {name for name in getattr(bench.split, split) if name.startswith(f"{collection}/")}


def test_mine_plus_the_toy_benchmark_with_rules_of_ones_own(here: Path) -> None:
    (here / "mine_and_toy.yaml").write_text(block("Mine plus the toy benchmark", 0))
    init = {**yaml.safe_load(block("Mine plus the toy benchmark", 1)), "tokenizer": "toybench/tokenizer"}
    run = {"data": {"class_path": "InstructionTuningDataModule", "init_args": init}}
    (here / "run.yaml").write_text(yaml.safe_dump({**run, "trainer": {"max_steps": 1}}))
    bench = benchmark("--config", "run.yaml", "--config", "models/tiny_llama")
    assert part(bench, "train", "mine") == {"mine/sounds", "mine/secret"}
    assert part(bench, "test", "mine") == {"mine/rhymes", "mine/sounds", "mine/secret", "mine/other"}
    toy = bench.collections["toy"]
    tagging = {name for name in bench._tasks if bench.task(name).category == "Tagging"}
    assert part(bench, "train", "toy") == {f"toy/{name}" for name in toy.task_names("train")} - tagging
    assert part(bench, "test", "toy") == {f"toy/{name}" for name in toy.task_names("test")} | tagging
    assert bench.split.missing == []


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_opt_iml_plus_mine(here: Path) -> None:
    command = re.findall(r"```bash\n(.*?)```", PAGE.partition("**OPT-IML plus mine.**")[2], flags=re.DOTALL)[0]
    bench = benchmark(*shlex.split(command.replace("\\\n", " "))[2:])
    assert part(bench, "train", "mine") == {"mine/rhymes", "mine/sounds"}
    assert part(bench, "test", "mine") == {"mine/sounds", "mine/secret", "mine/other"}
    assert len(part(bench, "train", "super_natural_instructions")) > 300
    assert any("do not name mine" in line for line in bench.split.lines())
