"""The recipes of configs/evaluation on real files, wherever CROSSTASK_DATA points, with a tiny model, offline."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import crosstask
from crosstask.cli import main
from crosstask.datamodules.rendering.tokenization import load_tokenizer

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder"),
]

RECIPES = Path(crosstask.__file__).parent / "configs/evaluation"
# What of each recipe's tasks the shipped data can run, and the numbers of shots.
RUN: dict[str, tuple[int, int, list[int]]] = {
    "bbh": (27, 27, [0]),
    "cappy_eleven": (8, 11, [0]),
    "mmlu": (57, 57, [0, 5]),
    "opt_tasks": (8, 14, [0, 32]),
    "opt_tasks_gpt3": (8, 14, [0, 32]),
    "promptsource": (8, 12, [0, 5]),
    "super_natural_instructions_119": (80, 119, [0]),
    "super_natural_instructions_44": (28, 44, [0, 2, 5]),
    "unifiedskg": (1, 3, [0, 5]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `crosstask fit` writes it, with its tokenizer, of random weights."""
    folder = tmp_path_factory.mktemp("model")
    words = ["--benchmark", "NaturalInstructions", "--benchmark.folder", "$CROSSTASK_DATA/superni"]
    main(["tokenizer", *words, "--benchmark.splits", "splits/bundle", "--vocabulary", "2000", "--folder", str(folder)])
    tokenizer = load_tokenizer(str(folder))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder, with ANLI as `crosstask download` writes it, from upstream's analysis of half of its rows."""
    real, folder = Path(os.environ["CROSSTASK_DATA"]), tmp_path_factory.mktemp("data")
    for path in real.iterdir():
        (folder / path.name).symlink_to(path)
    for number in (1, 2, 3):
        if not (to := folder / f"anli_r{number}/validation.jsonl").exists():
            to.parent.mkdir()
            with (real / f"anli/ANLI_analysis_r{number}_dev.csv").open(encoding="utf-8", newline="") as file:
                rows = [
                    [row["context"], row["statement"], "enc".index(row["gold_label"])] for row in csv.DictReader(file)
                ]
            columns = ("premise", "hypothesis", "label")
            to.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def data_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTASK_DATA", str(data))


@pytest.mark.parametrize("name", RUN)
def test_a_recipe_runs_offline_and_says_what_is_missing(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.instances.test", "1", "--data.init_args.evaluation.max_new_tokens", "4"]
    main(["test", "--config", str(RECIPES / f"{name}.yaml"), "--model.init_args.pretrained", str(model), *few])
    folder = tmp_path / f"runs/evaluation/{name}/version_0/report/test"
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    run, listed, shots = RUN[name]
    tasks = report["coverage"]["tasks"]
    assert (sum(task["run"] > 0 for task in tasks), len(tasks)) == (run, listed)
    assert all(task["run"] or task["missing"] for task in tasks)
    assert all(task["run"] == 0 or task["available"] > 0 for task in tasks)
    assert [group["shots"] for group in report["overall"]] == shots
    if run < listed:
        assert "incomplete" in (folder / "report.md").read_text()
        assert "averages are over these" in (folder / "report.html").read_text()


def test_cappys_eleven_tasks_are_classified_in_all_their_templates(model: Path, tmp_path: Path) -> None:
    benchmark, out = str(RECIPES / "benchmarks/cappy_eleven.yaml"), tmp_path / "out"
    words = ["--split", "test", "--generator", str(model), "--examples", "1", "--output", str(out)]
    main(["classify", "--benchmark", benchmark, *words])
    found = json.loads((out / "report.json").read_text())
    run, listed, _ = RUN["cappy_eleven"]
    assert (len(found["missing"]), found["mean_of"]) == (listed - run, f"mean of {run} of {listed} tasks")
    assert all("no file" in reason or "/" in reason for reason in found["missing"].values())
    assert len(found["models"]["generator"]["tasks"]) == run
    templates = {name: own["templates"] for name, own in found["chance"]["tasks"].items()}
    assert all(number == found["chance"]["tasks"][name]["questions"] > 1 for name, number in templates.items())


@pytest.mark.parametrize("name", ["flan", "raft"])
def test_a_recipe_without_any_data_is_rejected(name: str, model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"none of the \d+ tasks of .* is available: .*"):
        main(["test", "--config", str(RECIPES / f"{name}.yaml"), "--model.init_args.pretrained", str(model)])
