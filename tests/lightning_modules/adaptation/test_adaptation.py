"""Adapting a frozen model to tasks through a scorer: on responses where right and wrong can be told apart."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from adapted_tasks import TASKS, answers, held_out_ids, training
from recipes import store_of

from crosstask.commands.adapt import adapt_tasks
from crosstask.commands.select import select_samples
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.benchmarks import BigBench
from crosstask.datamodules.scoring.sampled_examples import SampledExamples


def test_tasks_are_adapted_to_reported_and_not_trained_twice(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wrong answer is always the same word, so that thirty steps tell it from the right one."""
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"test_examples": 8, "sizes": [1], "cache": str(store_of(toybench))}
    out = tmp_path / "out"
    how = training(toybench, calibration_examples=5)
    options |= {"variants": {"reward": {"loss": "pairwise"}}, "keep_scorers": True}
    adapt_tasks(benchmark, [file], str(out), how, tasks=TASKS, **options)
    found = json.loads((out / "report.json").read_text())
    assert found["methods"]["oracle"]["mean"] == 1.0
    assert found["methods"]["beam"]["mean"] == 0.0
    assert found["methods"]["scorer"]["mean"] > 0.9
    recovered = found["scorers"]["scorer"]["recovered"]
    assert recovered > 0.8  # the best single decoding is right half of the time
    assert found["methods"]["reward"]["mean"] > 0.9
    assert found["scorers"]["reward"]["training"]["loss"] == "pairwise"
    assert found["scorers"]["reward"]["costs"][TASKS[0]]["split_groups"] == 0
    errors = found["scorers"]["reward"]["calibration_error"]
    assert errors["scores"] is None  # scores of a ranking loss are no correctness
    assert errors["calibrated"] < 0.2
    assert found["methods"]["self-consistency, reward, calibrated"]["mean"] > 0.9
    assert found["sizes"]["1"]["scorer"] == found["methods"]["nucleus"]["mean"]
    assert set(found["advantages"]) == {"self-scoring", "best single decoding"}
    assert all(set(of) == set(TASKS) for of in found["advantages"].values())
    for name in TASKS:
        means = found["tasks"][name]
        for base, row in (("self-scoring", "self-score, sum"), ("best single decoding", found["best_single"])):
            assert found["advantages"][base][name]["mean"] == pytest.approx(means["scorer"] - means[row])
    cost = found["costs"][TASKS[0]]
    assert 20 < cost["pairs_per_step"] < 50
    assert cost["storage"] > 0.1
    trained = json.loads((out / "tasks" / f"{TASKS[0]}.samples.jsonl").read_text().splitlines()[0])["id"]
    assert trained not in held_out_ids(benchmark, TASKS[0], 8)
    written = (out / "report.md").read_text()
    assert "scorer's choice" in written
    assert f"| scorer | {recovered:.1%} |" in written
    assert "| chosen by | ROUGE-L | 95% | over the best single decoding | of 1 | of 3 |" in written
    costs = [found["costs"][name] for name in TASKS]
    assert f"| scorer | 2 | {sum(cost['seconds'] for cost in costs):.0f} |" in written
    for name in TASKS:
        means = found["tasks"][name]
        shown = [means[method] for method in ("self-score, sum", found["best_single"], "scorer", "reward", "oracle")]
        assert f"| {' | '.join(f'{100 * mean:.1f}' for mean in shown)} |" in written
    for base, file_name in (("self-scoring", "self_scoring"), ("best single decoding", "best_single_decoding")):
        check_chart(out / f"advantages_over_{file_name}.svg", found["advantages"][base])
    assert "## Tasks with the smallest gain over self-scoring" in written
    before = [path.stat().st_mtime_ns for path in sorted((out / "tasks").glob("*.json"))]
    adapt_tasks(benchmark, [file], str(out), how, tasks=TASKS, **options)
    assert [path.stat().st_mtime_ns for path in sorted((out / "tasks").glob("*.json"))] == before

    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(out), replace(how, steps=1), tasks=TASKS, **options)
    assert "was made with steps 30, not 1: remove it" in capsys.readouterr().out

    tested = SampledExamples(benchmark, parts=["test"], tasks=TASKS[:1], validation_examples=0, test_examples=8)
    kept = str(out / "scorers" / f"{TASKS[0]}.reward")
    select_samples(tested, [file], str(tmp_path / "selected"), kept, max_length=128, sizes=[])
    selected = json.loads((tmp_path / "selected" / "selection.json").read_text())["methods"]
    assert selected["scorer"]["mean"] == found["tasks"][TASKS[0]]["reward"]
    assert (
        selected["self-consistency, calibrated"]["mean"]
        == (found["tasks"][TASKS[0]]["self-consistency, reward, calibrated"])
    )


def check_chart(path: Path, advantages: dict[str, Any]) -> None:
    """A figure by itself: a point for each task, the largest gain first, to the right in proportion to the gain."""
    root = ElementTree.parse(path).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{svg}svg"
    groups = [group for group in root.iter(f"{svg}g") if group.get("class") == "differences"]
    uses = [use for group in groups for use in group.iter(f"{svg}use")]
    points = [(float(use.get("y", "")), float(use.get("x", ""))) for use in uses]
    gains = sorted((gain["mean"] for gain in advantages.values()), reverse=True)
    reach = 1.08 * max(abs(gain[end]) for gain in advantages.values() for end in ("mean", "low", "high"))
    left, right = 72 * 3.5, 72 * (9.6 - 1.35)  # of the axes, in points; 0 is in the middle
    middle = (left + right) / 2
    expected = [middle + gain / reach * (right - middle) for gain in gains]
    assert [x for _, x in sorted(points)] == pytest.approx(expected, abs=0.1)
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert set(advantages) <= set(texts)
    assert path.with_suffix(".pdf").is_file()
    assert path.with_suffix(".png").is_file()


def test_answers_that_are_held_out_to_calibrate_train_nothing(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All ten that were answered are held out: what is left to train has no answers, and is not trained in silence."""
    benchmark = NaturalInstructions(str(toybench))
    parts = SampledExamples(benchmark, parts=["train", "test"], tasks=TASKS[:1], train_examples=10, test_examples=4)
    sampled = {each.example.id for each in replace(parts, validation_examples=0).prompts()}
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    lines = Path(file).read_text().splitlines(keepends=True)
    Path(file).write_text("".join(line for line in lines if json.loads(line)["id"] in sampled))
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "a"), training(toybench, calibration_examples=10), **options)
    assert "none of the 30 training instances" in capsys.readouterr().out
    how = training(toybench, calibration_examples=4, train_examples=10, steps=1)
    adapt_tasks(benchmark, [file], str(tmp_path / "b"), how, **options)
    found = json.loads((tmp_path / "b" / "report.json").read_text())
    assert found["costs"][TASKS[0]]["unanswered"] == 4
    assert "scorer: 4 training instances have no response." in (tmp_path / "b" / "report.md").read_text()


def test_tasks_and_files_are_looked_for_before_anything_is_trained(toybench: Path, tmp_path: Path) -> None:
    benchmark, out = NaturalInstructions(str(toybench)), str(tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"no task 'task001_toy_copy_animal' among .* nearest: task001_toy_copy_animals"
    ):
        adapt_tasks(benchmark, [], out, training(toybench), tasks=[*TASKS, "task001_toy_copy_animal"])
    with pytest.raises(ValueError, match=r"no file or folder .*absent\.jsonl with model samples"):
        adapt_tasks(benchmark, [str(tmp_path / "absent.jsonl")], out, training(toybench), tasks=TASKS)
    (tmp_path / "add").mkdir()
    (tmp_path / "add" / "task.json").write_text(json.dumps({"examples": [{"input": "1", "target": "2"}] * 40}))
    with pytest.raises(ValueError, match="lists no task to test: give `test`"):
        adapt_tasks(BigBench(str(tmp_path), "train"), [], out, training(toybench))


def test_a_variant_cannot_be_called_as_a_decoding(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path), training(toybench), variants={"beam": {}}, **options)
    assert "a scorer cannot be called 'beam'" in capsys.readouterr().out
    assert not list((tmp_path / "tasks").iterdir())


def test_instances_that_are_read_apart_stay_apart(toybench: Path, tmp_path: Path) -> None:
    """BIG-bench: learned is the part "train", chosen for is "validation"; the ablation needs no training samples."""
    folder = tmp_path / "bigbench" / "add"
    folder.mkdir(parents=True)
    examples = [{"input": f"{n} plus 1", "target": str(n + 1)} for n in range(40)]
    (folder / "task.json").write_text(json.dumps({"name": "add", "examples": examples, "metrics": ["exact_str_match"]}))
    parts = [BigBench(str(tmp_path / "bigbench"), part=part) for part in ("train", "validation")]
    file = answers(parts[1], ["add"], tmp_path / "samples.jsonl", wrong="0")
    run: dict[str, Any] = {"test": parts[1], "cache": str(store_of(toybench))}
    adapt_tasks(parts[0], [file], str(tmp_path / "out"), training(toybench, steps=1), augmentation=False, **run)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["instances"] == 16
    with pytest.raises(SystemExit):
        adapt_tasks(parts[0], [file], str(tmp_path / "other"), training(toybench, steps=1), **run)
    assert not (tmp_path / "other" / "report.json").exists()  # no answer to a training instance


def test_test_instances_with_the_ids_of_training_instances_are_rejected(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given as `test`, the benchmark of the training would test what it trains on."""
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    run: dict[str, Any] = {"test": benchmark, "tasks": TASKS[:1], "test_examples": 8, "cache": str(tmp_path)}
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench), **run)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"8 of 8 test instances of {TASKS[0]} have the id of a training instance" in printed
    assert "leave it out, and the first test_examples of each task's file" in printed


def test_sampled_instances_that_are_not_tested_are_counted(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 130 instances of a task have responses, and the first 8 are tested."""
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    tested = SampledExamples(benchmark, parts=["test"], tasks=TASKS[:1], validation_examples=0, test_examples=8)
    select_samples(tested, [file], str(tmp_path / "out"))
    assert "8 of 130 sampled instances were tested" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/selection.json").read_text())["untested"] == 122
