"""Files that lie in a benchmark's folder and are not read are counted, or are an error if nothing else is there."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks import (
    P3,
    BigBench,
    ChainOfThought,
    FileTasks,
    NaturalInstructions,
    OptEvaluation,
    PretrainingText,
    PromptSource,
)
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.benchmarks.templates.template_rows import files_of_rows

LINE = json.dumps({"input": "cat", "output": "hat"}) + "\n"


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = LINE.encode() * 30
        (folder / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)


def test_upper_case_and_compressed_tasks_are_read(tmp_path: Path) -> None:
    write(tmp_path, "train/a.JSONL", "train/b.v2.jsonl.gz", "test/c.jsonl")
    (tmp_path / "train/b.v2.json").write_text('{"category": "Rhymes"}')
    reader = FileTasks(str(tmp_path))
    assert (reader.task_names("train"), reader.task_names("test")) == (["a", "b.v2"], ["c"])
    assert reader.task("b.v2").category == "Rhymes"
    assert [len(list(reader.examples(name))) for name in ("a", "b.v2", "c")] == [30, 30, 30]
    assert reader.fingerprint("b.v2") != reader.fingerprint("a")
    assert reader.unread_lines() == ["a, b.v2, c: the form of the rows is input_output"]
    write(tmp_path, "train/a.jsonl.gz")
    with pytest.raises(ValueError, match=r"a\.JSONL and .*a\.jsonl\.gz are both the task 'a'; remove one"):
        FileTasks(str(tmp_path)).task_names("train")


def test_files_behind_links_are_read_and_links_to_nothing_are_named(tmp_path: Path) -> None:
    """``Path.rglob`` leaves out a folder that is a link: half of a corpus on two disks."""
    write(tmp_path, "corpus/a.jsonl", "disk/b.jsonl", "disk/c.jsonl")
    (tmp_path / "corpus/more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/again").symlink_to(tmp_path / "corpus")  # a loop
    reader = PretrainingText({"texts": str(tmp_path / "corpus")}, column="input")
    before = reader.fingerprint("texts")
    assert len(list(reader.examples("texts"))) == 90
    write(tmp_path, "disk/c.jsonl.gz")
    assert reader.fingerprint("texts") != before
    (tmp_path / "disk/d.jsonl").symlink_to("/mnt/elsewhere/d.jsonl")
    with pytest.raises(ValueError, match=r"d\.jsonl: a link to /mnt/elsewhere/d\.jsonl, where nothing is"):
        list(reader.examples("texts"))
    tasks = FileTasks(str(tmp_path / "disk"))
    with pytest.raises(ValueError, match=r"d\.jsonl: a link to"):
        tasks.task_names("train")


def test_a_pipe_among_files_is_named(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    write(tmp_path, "train/a.jsonl")
    os.mkfifo(tmp_path / "train/b.jsonl")
    for reader in (FileTasks(str(tmp_path)), P3(str(tmp_path / "train")), PretrainingText({"texts": str(tmp_path)})):
        with pytest.raises(ValueError, match=r"b\.jsonl: no file \(a pipe or device\); mend or remove it"):
            [list(reader.examples(name)) for name in reader.task_names("train")]


def test_two_files_of_rows_for_one_template_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, "train/rte.jsonl", "train/rte.jsonl.gz")
    for read in (
        lambda: files_of_rows(str(tmp_path), "train"),
        lambda: P3(str(tmp_path / "train")).task_names("train"),
    ):
        with pytest.raises(ValueError, match=r"rte\.jsonl and .*rte\.jsonl\.gz are both the rows of 'rte'; remove one"):
            read()


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (
            ["dev/a.jsonl", "dev/b.jsonl", "train/c.txt"],
            "3 data files not read in {}: 2 dev/*.jsonl, 1 train/*.txt",
        ),
        (["train/a.jsonl.zst", "train/c.json"], "2 data files not read in {}: 1 train/*.zst, 1 train/*.json"),
    ],
)
def test_what_is_not_read_is_counted(names: list[str], line: str, tmp_path: Path, make_datamodule: Any) -> None:
    write(tmp_path, *names, ".cache/d.jsonl", "README.txt", "train/notes.md")
    reader = FileTasks(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"expected files of rows \(\.jsonl, .*\), in the folder or in train, validation"
    ):
        reader.task_names("train")
    write(tmp_path, "train/read.jsonl")
    reader = FileTasks(str(tmp_path))
    assert reader.unread_lines() == [line.format(tmp_path), "read: the form of the rows is input_output"]
    assert make_datamodule(benchmark=reader).split_lines() == reader.unread_lines()
    assert Bench({"mine": reader}, rules="all").unread_lines() == reader.unread_lines()


def test_other_readers_count_theirs(tmp_path: Path) -> None:
    write(tmp_path, "tasks/task1.json", "tasks/task2.JSON.gz", "tasks/more/task3.json")
    assert NaturalInstructions(str(tmp_path)).unread_lines() == [
        f"2 data files not read in {tmp_path / 'tasks'}: 1 more/*.json, 1 *.gz"
    ]
    write(tmp_path, "cot/gsm8k_train.tsv", "cot/gsm8k_test.tsv")
    assert ChainOfThought(str(tmp_path / "cot")).unread_lines()[0].endswith(": 1 *.tsv")
    write(tmp_path, "p3/wiki_qa_x.jsonl", "p3/wiki_qa_y.txt")
    assert P3(str(tmp_path / "p3")).unread_lines()[0].endswith(": 1 *.txt")
    write(tmp_path, "opt/superglue/RTE/val_2.jsonl", "opt/elsewhere/a.jsonl")
    assert OptEvaluation(str(tmp_path / "opt")).unread_lines()[0].endswith(": 1 superglue/RTE/*.jsonl")
    write(tmp_path, "big/sums/task.json", "big/sums/results/a.json", "big/rows/train-0.jsonl.gz", "big/rows/dev.jsonl")
    assert set(BigBench(str(tmp_path / "big")).unread_lines()[0].partition(": ")[2].split(", ")) == {
        "1 sums/results/*.json",
        "1 rows/*.jsonl",
    }
    write(tmp_path, "text/a.txt", "text/b.JSONL", "text/c.zip", "text/README.md")
    assert PretrainingText({"books": str(tmp_path / "text")}).unread_lines()[0].endswith(": 1 *.zip")


def test_rows_of_no_template_are_counted(tmp_path: Path) -> None:
    template = "!Template {name: a, jinja: '{{q}} ||| {{a}}', answer_choices: null, metadata: !TemplateMetadata {}}"
    (tmp_path / "templates/sums").mkdir(parents=True)
    (tmp_path / "templates/sums/templates.yaml").write_text(f"dataset: sums\ntemplates:\n  1: {template}\n")
    write(tmp_path, "rows/train/sums.jsonl.gz", "rows/train/sum.jsonl", "rows/dev/sums.jsonl")
    reader = PromptSource(str(tmp_path / "templates"), rows_folder=str(tmp_path / "rows"), original_task=False)
    assert reader.task_names("train") == ["sums"]
    assert set(reader.unread_lines()[0].partition(": ")[2].split(", ")) == {"1 train/*.jsonl", "1 dev/*.jsonl"}
