"""Finished tasks are not trained again, or taken for others; processes share them; a failed one is tried again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_tasks import TASKS, answers, held_out_ids, training
from recipes import store_of
from safetensors.torch import load_file, save_file

from crosstask.commands.adapt import adapt_tasks
from crosstask.datamodules import NaturalInstructions
from crosstask.lightning_modules.adaptation import scorer_records as adapted_scorers
from crosstask.lightning_modules.adaptation.task_scorer import adapt


def test_a_task_that_fails_is_reported_and_the_others_go_on(toybench: Path, tmp_path: Path) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    with pytest.raises(SystemExit):
        adapt_tasks(
            benchmark,
            [file],
            str(tmp_path / "out"),
            training(toybench, steps=2),
            tasks=TASKS[::-1],
            test_examples=4,
            cache=str(store_of(toybench)),
        )
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(found["tasks"]) == TASKS[:1]
    assert "4 of 4 examples have no response" in found["failed"][TASKS[1]]
    assert "failed" in (tmp_path / "out" / "report.md").read_text()


def test_a_scorer_that_diverges_fails_its_task_alone(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"tasks": TASKS, "test_examples": 4, "cache": str(store_of(toybench))}

    def diverged(benchmark: Any, task: str, *args: Any, **settings: Any) -> Any:
        found = adapt(benchmark, task, *args, **settings)
        if task == TASKS[0]:
            torch.nn.init.constant_(found.module.scorer.get_parameter("classifier.out_proj.bias"), float("nan"))
        return found

    monkeypatch.setattr(adapted_scorers, "adapt", diverged)
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(found["tasks"]) == TASKS[1:]
    assert "scores are not finite" in found["failed"][TASKS[0]]
    monkeypatch.undo()
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)  # and is tried again
    assert list(json.loads((tmp_path / "out" / "report.json").read_text())["tasks"]) == TASKS


def test_scorers_of_other_answers_are_not_taken_for_these(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    tested = held_out_ids(benchmark, TASKS[0], 4)
    lines = Path(file).read_text().splitlines(keepends=True)
    others = [line if json.loads(line)["id"] in tested else line.replace("zebra", "mouse") for line in lines]
    Path(file).write_text("".join(others))
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    assert "was made with answers" in capsys.readouterr().out


def test_scorers_of_other_weights_are_not_taken_for_these(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights to start from change under the same path; the report stays that of the old ones."""
    benchmark = NaturalInstructions(str(toybench))
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), keep_scorers=True, **options)
    weights = tmp_path / "weights"
    shutil.copytree(tmp_path / "out" / "scorers" / TASKS[0], weights)
    how = training(toybench, steps=1, config=None, pretrained=str(weights))
    adapt_tasks(benchmark, [file], str(tmp_path / "second"), how, **options)
    report = (tmp_path / "second" / "report.json").read_bytes()
    tensors = load_file(weights / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in tensors.items()}, weights / "model.safetensors")
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "second"), how, **options)
    assert "was made with pretrained" in capsys.readouterr().out
    assert (tmp_path / "second" / "report.json").read_bytes() == report


def test_processes_share_the_tasks_and_the_last_one_reports(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tasks of a SLURM array, one after the other, write what one process writes, but for durations."""
    benchmark, out = NaturalInstructions(str(toybench)), tmp_path / "out"
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"test_examples": 4, "sizes": [], "cache": str(store_of(toybench)), "tasks": TASKS}
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    for place in (1, 0):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(place))
        if place:
            with pytest.raises(SystemExit) as ended:
                adapt_tasks(benchmark, [file], str(out), training(toybench, steps=2), **options)
            assert ended.value.code == 0
            assert "1 of 2 tasks are finished" in capsys.readouterr().out
            assert [path.stem for path in (out / "tasks").glob("*.json")] == [TASKS[1]]
        else:
            adapt_tasks(benchmark, [file], str(out), training(toybench, steps=2), **options)
    assert "hours of training, on one device: scorer 0.0" in capsys.readouterr().out
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    adapt_tasks(benchmark, [file], str(tmp_path / "alone"), training(toybench, steps=2), **options)
    shared, alone = (json.loads((folder / "report.json").read_text()) for folder in (out, tmp_path / "alone"))
    assert list(shared["tasks"]) == TASKS
    assert shared["methods"] == alone["methods"]
    assert shared["hours"].keys() == {"scorer"}


def test_a_failed_task_ends_no_other_process_and_is_reported_by_the_last(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun ends all processes of a job when one of them fails."""
    benchmark, out = NaturalInstructions(str(toybench)), tmp_path / "out"
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")  # none of the second task
    options: dict[str, Any] = {"test_examples": 4, "sizes": [], "cache": str(store_of(toybench)), "tasks": TASKS}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, code, printed in (
        (1, 0, "0 of 2 tasks are finished, 1 failed"),
        (0, 1, f"1 of 2 tasks failed: {TASKS[1]}"),
    ):
        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(SystemExit) as ended:
            adapt_tasks(benchmark, [file], str(out), training(toybench, steps=2), **options)
        assert ended.value.code == code
        assert printed in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert list(report["tasks"]) == TASKS[:1]
    assert "have no response" in report["failed"][TASKS[1]]


def test_a_failure_of_an_earlier_job_is_not_reported_before_its_task_is_tried_again(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the second job the process of the failed task begins after the other one has ended."""
    benchmark, out = NaturalInstructions(str(toybench)), tmp_path / "out"
    file = Path(answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra"))
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    options: dict[str, Any] = {"test_examples": 4, "sizes": [], "cache": str(store_of(toybench)), "tasks": TASKS}
    monkeypatch.setenv("WORLD_SIZE", "2")

    def process(job: str, rank: str) -> int | str | None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        monkeypatch.setenv("RANK", rank)
        try:
            adapt_tasks(benchmark, [str(file)], str(out), training(toybench, steps=1), **options)
        except SystemExit as ended:
            return ended.code
        return None

    file.write_text("".join(line for line in lines if json.loads(line)["task"] == TASKS[0]))
    assert [process("first", "1"), process("first", "0")] == [0, 1]
    first_report = (out / "report.json").read_bytes()
    file.write_text(whole)
    assert process("second", "0") == 0
    assert "1 of 2 tasks are finished; the process" in capsys.readouterr().out
    assert (out / "report.json").read_bytes() == first_report
    assert process("second", "1") is None
    assert list(json.loads((out / "report.json").read_text())["tasks"]) == TASKS
