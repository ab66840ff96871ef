"""Preparing many tasks ahead of training: in parallel, interrupted, from the command line."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from live_processes import processes_in, within
from recipes import few_tasks
from warm_program import WarmProgram

from crosstask.cli import main
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.benchmarks import PretrainingText
from crosstask.datamodules.schema import TokenizedExample
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.storage.parallel_preparation import Job, PreparationCounts, prepare_tasks
from crosstask.datamodules.storage.store import remove_abandoned, write_task
from crosstask.datamodules.storage.training_tasks import TrainingTasks


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_processes_read_variables_as_they_are_when_a_preparation_starts(
    make_datamodule: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are forked from a server that the first preparation starts, with the variables of that time."""
    sources = {name: f"$TEXTS/{name}.jsonl" for name in ("a", "b")}
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        for name in sources:
            (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps({"text": f"{folder} {name}"}) + "\n")
        monkeypatch.setenv("TEXTS", str(tmp_path / folder))
        options = {"instances": {"test": 0, "validation": 0}, "cache": str(tmp_path / "store"), "processes": 2}
        datamodule = make_datamodule(benchmark=PretrainingText(sources), **options)
        datamodule.prepare_data()
        assert datamodule.prepared.written == 2
        for used in (tmp_path / folder).iterdir():
            used.unlink()


def test_several_processes_write_what_one_writes(
    make_datamodule: Any, toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = make_datamodule(cache=str(tmp_path / "alone"))
    alone.prepare_data()
    alone.setup("validate")
    arguments = {"folder": str(toybench)}
    data = {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": arguments},
        "rows": {"length": 128, "per_step": 1},
    }
    data |= {
        "tokenizer": str(toybench / "tokenizer"),
        "evaluation": {"max_new_tokens": 8},
        "cache": str(tmp_path / "together"),
    }
    data |= {"instances": {"validation": 2, "test": 3}}
    recipe = {"data": {"class_path": "InstructionTuningDataModule", "init_args": data}, "trainer": {"max_steps": 1}}
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump(recipe))
    main(["prepare", "--config", str(config), "--processes", "2"])
    assert files(tmp_path / "together") == files(tmp_path / "alone")
    said = capsys.readouterr().out
    assert "73 tasks written, 0 already in the store" in said
    main(["prepare", "--config", str(config)])
    assert "0 tasks written, 73 already in the store; 0 examples" in capsys.readouterr().out
    main(["describe", "--config", str(config), "--depth", "2"])
    described = capsys.readouterr().out
    assert "super_natural_instructions" in described
    assert "warning: 73 of 73 tasks are drawn less than half a time" in described  # in one step


@pytest.mark.parametrize(("name", "fully"), [("tokens.bin", True), ("lengths.npy", True), ("tokens.bin", False)])
def test_a_damaged_task_is_named_and_written_again(
    make_datamodule: Any, tmp_path: Path, name: str, fully: bool
) -> None:
    """A flipped bit is found by reading all files, a missing end also without."""
    data = make_datamodule(cache=str(tmp_path / "store"))
    job = Job(data.benchmark.task_names("train")[0], True, False, fully)
    prepare_tasks(data.preparation, [job])
    (path,) = data.preparation.folder.glob(f"*/{name}")
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + (bytes([intact[-1] ^ 1]) if fully else b""))
    with pytest.warns(UserWarning, match=rf"{name} is damaged, .*; writing it again"):
        assert prepare_tasks(data.preparation, [job]).written == 1
    assert path.read_bytes() == intact
    assert prepare_tasks(data.preparation, [job]).reused == 1


def test_only_tasks_whose_instances_are_all_held_out_are_rejected_for_it(make_datamodule: Any, tmp_path: Path) -> None:
    """A task whose examples are all skipped has no documents either, for another reason."""
    preparation = make_datamodule().preparation
    folders = {name: f"{name}-1" for name in ("skipped", "held_out")}
    preparation = replace(preparation, folder=tmp_path, instances=Instances(test=7, validation=3))
    for name, documents in (("skipped", ["empty input"]), ("held_out", [])):
        write_task(tmp_path / folders[name], documents, vocabulary=9, about={"reduced": ""})
    names = {"train": list(folders), "validation": ["skipped"], "test": ["held_out"]}
    with pytest.raises(ValueError, match=r"^1 training task without instances beside 7 for test and 0 for validation"):
        TrainingTasks(preparation, names, folders).with_documents()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_preparation(
    program: WarmProgram, toybench: Path, tmp_path: Path, number: signal.Signals
) -> None:
    data = {"benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}}}
    data |= {"tokenizer": str(toybench / "tokenizer"), "cache": str(tmp_path / "store"), "rows": {"length": 128}}
    data |= {"evaluation": {"max_new_tokens": 8}, "instances": {"validation": 2, "test": 3}}
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "InstructionTuningDataModule", "init_args": data}}))
    running = program.start("prepare", "--config", str(config), "--processes", "2")
    assert within(200, lambda: any((tmp_path / "store").glob("[!.]*"))), "no task was written"
    assert len(processes_in(running.pid)) > 3  # it, a server, and two workers
    running.send_signal(number)
    assert running.finish(timeout=30).returncode
    assert within(20, lambda: not processes_in(running.pid)), processes_in(running.pid)


def test_a_yaml_joins_collections_and_says_their_shares(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own/train").mkdir(parents=True)
    rows = [{"input": f"{number} and 1?", "output": str(number + 1)} for number in range(40)]
    (tmp_path / "own/train/sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = few_tasks(toybench, tmp_path / "splits")
    toy = {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench), "splits": splits}}
    own = {"class_path": "FileTasks", "init_args": {"source": str(tmp_path / "own")}}
    text = {"class_path": "PretrainingText", "init_args": {"sources": {"text": str(tmp_path / "text.jsonl")}}}
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "Once upon a time there was a cat."}) + "\n")
    bench = {
        "class_path": "Bench",
        "init_args": {"rules": "all", "collections": {"toy": toy, "own": own, "text": text}},
    }
    data = {"benchmark": bench, "tokenizer": str(toybench / "tokenizer"), "cache": str(tmp_path / "store")}
    extra = {"text": {"share": 0.05, "paid_by": "toy"}}
    data |= {
        "mixture": {"proportions": {"own": 0.2, "t5": 0.5}, "absent": "shared", "extra": extra},
        "instances": {"validation": 0},
        "rows": {"length": 128},
        "evaluation": {"max_new_tokens": 8},
    }
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "InstructionTuningDataModule", "init_args": data}}))
    main(["describe", "--config", str(config), "--depth", "1"])
    lines = capsys.readouterr().out.splitlines()
    rates = {line.split()[0]: line.split()[2] for line in lines if line.startswith("  ")}
    assert rates == {"toy": "55.000%", "own": "40.000%", "text": "5.000%"}  # 0.3 : 0.2, and toy pays for the text
    assert "warning: no training task is of t5: the others share what the rules give it" in lines


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    def killed() -> None:
        def documents() -> Iterator[TokenizedExample]:
            yield TokenizedExample(np.array([5]), 0)
            os.kill(os.getpid(), signal.SIGKILL)

        write_task(tmp_path / "task", documents(), vocabulary=600, about={})

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".task=")
    mine = tmp_path / left.name.replace(str(process.pid), str(os.getpid()))
    mine.mkdir()
    assert remove_abandoned(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [mine]  # of a process that runs


def test_a_task_that_cannot_be_read_leaves_the_others(make_datamodule: Any, toybench: Path, tmp_path: Path) -> None:
    data = make_datamodule(benchmark=NaturalInstructions(str(toybench)))
    names = data.benchmark.task_names("train")[:2]
    jobs = [Job(name, True, False) for name in (*names, "task999_none")]
    with pytest.raises(ValueError, match="no task 'task999_none'"):
        prepare_tasks(data.preparation, jobs)
    assert prepare_tasks(data.preparation, jobs[:2]) == PreparationCounts(0, 2, 0)
    with pytest.raises(ValueError, match="processes must be at least 1"):
        prepare_tasks(data.preparation, jobs, processes=0)
