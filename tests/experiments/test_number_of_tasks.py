"""The experiment on the number of training tasks: which instances are paired, its table and its figure."""

import json
from pathlib import Path
from typing import Any

from claims_results import arm_of, read_sweep_runs
from number_of_tasks import SWEEP, answered, curves, table

from crosstask.commands.shared.sweep_declarations import read_sweep

LEVELS = ("fully_supervised", "partially_supervised", "fully_held_out")


def run(folder: Path, scores: dict[str, float]) -> Path:
    """Write a run's predictions for one instance of a task at each level, and return its folder."""
    lines = [
        {
            "number": number, "benchmark": "b", "task": task, "parent": None, "category": "c", "level": level,
            "shots": 0, "metric": "rouge_l", "match": "exact", "id": "i", "prompt": "p", "references": ["r"],
            "prediction": "r", "rouge_l": scores[task], "exact_match": 0.0,
        }
        for number, (task, level) in enumerate(zip("abc", LEVELS, strict=True))
        if task in scores
    ]  # fmt: skip
    path = folder / "predictions/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_arms_are_compared_on_the_instances_of_all(tmp_path: Path) -> None:
    few = run(tmp_path / "16", {"a": 0.5, "b": 0.25, "c": 0.0})
    many = run(tmp_path / "256", {"a": 0.5, "b": 0.5, "c": 0.5})
    rows = answered({"16 tasks": few, "256 tasks": many})
    cells = {line.split(" | ")[0]: line.split(" | ")[2:] for line in table(rows).splitlines()[2:]}
    assert cells["| fully held out"][:3] == ["1", "1", "0.0 [0.0, 0.0]"]
    assert cells["| unseen"][:4] == ["2", "2", "12.5 [0.0, 25.0]", "50.0 [50.0, 50.0]"]
    assert cells["| unseen"][4] == "37.5 [25.0, 50.0] |"  # 256 tasks - 16 tasks
    labels = [tick.get_text() for tick in curves(rows).axes[0].get_xticklabels()]
    assert labels == ["16 tasks", "256 tasks"]

    unfinished = run(tmp_path / "64", {"a": 1.0})
    assert [row.task for row in answered({"64 tasks": unfinished, "256 tasks": many})] == ["a"]


def test_results_are_read_from_runs_with_and_without_versions(tmp_path: Path) -> None:
    run(tmp_path / "16-tasks/seed-0/version_1", {"a": 0.5})  # of a run with a logger
    run(tmp_path / "64-tasks/seed-0", {"a": 0.25})
    (tmp_path / "256-tasks/seed-0").mkdir(parents=True)  # not evaluated yet
    results = read_sweep_runs(str(SWEEP), tmp_path)
    assert results.systems == {"16 tasks, 0-shot": {0: {"a": 50.0}}, "64 tasks, 0-shot": {0: {"a": 25.0}}}


def test_the_arms_are_the_papers_numbers_of_tasks() -> None:
    arms: dict[str, Any] = dict(read_sweep(str(SWEEP)).arms)
    paper = read_sweep("papers/ablations/tasks").arms
    assert arms == {f"{name} tasks": paper[name] for name in ("16", "64", "256")}
    assert arm_of("16 tasks, 0-shot") == "16 tasks"
