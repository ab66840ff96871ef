"""What families that are lists of datasets share, on a small family and on broken files."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks.catalogue import Catalogue, Dataset, Files, Layout, RenderedExample
from crosstask.datamodules.benchmarks.multiple_choice import answer_index
from crosstask.datamodules.benchmarks.rows.row import Row
from crosstask.datamodules.benchmarks.rows.row_files import json_rows
from crosstask.datamodules.schema import Example, Task


def render_sum(row: Row) -> Iterable[RenderedExample]:
    yield RenderedExample(f"Add {row.text('terms')}", (str(row.integer("sum")),))


def render_choice(row: Row) -> Iterable[RenderedExample]:
    options = row.texts("options")
    answer = answer_index(row, options, row.text("answer"))
    yield RenderedExample(row.text("question"), (options[answer],), options, answer)


def render_pairs(row: Row) -> Iterable[RenderedExample]:
    for pair in row.value("pairs"):
        yield RenderedExample(pair[0], (pair[1],), skipped="" if pair[1] else "no answer")


DATASETS = {
    "sums": Dataset(
        name="sums",
        category="Mathematics",
        layouts=(Layout(("terms", "sum"), render_sum), Layout(("pairs",), render_pairs)),
        files={
            "train": (Files(("sums/train.jsonl",)), Files(("other/sums.json",), lambda path: json_rows(path, "rows"))),
            "test": (Files(("sums/test.jsonl",)),),
        },
        licence="MIT",
    ),
    "choices": Dataset(
        name="choices",
        category="Question Answering",
        layouts=(Layout(("question", "options", "answer"), render_choice),),
        files={"train": (Files(("choices/train.csv",)),)},
        metric="accuracy",
        parent="all_choices",
        sources=("exams",),
    ),
}


class Numbers(Catalogue):
    name = "numbers"

    def datasets(self) -> Mapping[str, Dataset]:
        return DATASETS


def write(folder: Path, name: str, *records: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


SUM = {"terms": "1 and 2", "sum": 3}


def test_a_family_lists_the_tasks_of_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "sums/train.jsonl", SUM, {"pairs": [["a", "b"], ["c", ""]]})
    reader = Numbers(str(tmp_path))
    assert (reader.task_names("train"), reader.task_names("test")) == (["sums"], [])
    assert list(reader.examples("sums")) == [
        Example("sums", "train-0", 0, "Add 1 and 2", ("3",)),
        Example("sums", "train-1", 1, "a", ("b",)),
        Example("sums", "train-2", 2, "c", (), skipped="no answer"),
    ]
    assert reader.task("sums") == Task(
        benchmark="numbers",
        name="sums",
        category="Mathematics",
        instruction_level="instance",
        sources=("sums",),
        licence="MIT",
    )
    assert (reader.task("choices").parent, reader.task("choices").sources) == ("all_choices", ("exams",))


def test_another_split_is_another_reading(tmp_path: Path) -> None:
    write(tmp_path, "sums/train.jsonl", SUM)
    write(tmp_path, "sums/test.jsonl", SUM, SUM)
    reader = Numbers(str(tmp_path), split="test")
    assert (reader.task_names("train"), reader.task_names("test")) == ([], ["sums"])
    assert [example.id for example in reader.examples("sums")] == ["test-0", "test-1"]
    assert reader.fingerprint("sums") != Numbers(str(tmp_path)).fingerprint("sums")


def test_a_dataset_is_read_from_wherever_it_is(tmp_path: Path) -> None:
    import datasets

    records = [{"question": "Is it?", "options": ["no", "yes"], "answer": "yes"}]
    expected = [Example("choices", "train-0", 0, "Is it?", ("yes",), options=("no", "yes"), answer=1)]
    saved = datasets.Dataset.from_list(records)
    saved.to_parquet(tmp_path / "c.parquet")
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "c.json").write_text(json.dumps(records))
    arrow = next((tmp_path / "saved/train").glob("*.arrow"))
    for source in ("c.parquet", "saved", "c.json", str(arrow)):
        reader = Numbers(sources={"choices": str(tmp_path / source)})
        assert reader.task_names("train") == ["choices"]
        assert list(reader.examples("choices")) == expected
        assert len(reader.fingerprint("choices")) == 64


def test_a_later_place_is_read_where_the_first_is_missing(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sums.json").write_text(json.dumps({"rows": [SUM, SUM]}))
    reader = Numbers(str(tmp_path))
    assert sum(1 for _ in reader.examples("sums")) == 2
    before = reader.fingerprint("sums")
    (tmp_path / "other/sums.json").write_text(json.dumps({"rows": [SUM]}))
    assert reader.fingerprint("sums") != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"terms": "1", "sum": 1}\n{"terms": "1", "su', "line 2: not valid JSON at column"),
        (b'{"terms": "1", "sum": 1}\n{"terms": "\xe9", "sum": 1}\n', "line 2: not UTF-8 at byte 11"),
        (b'{"term": "1", "sum": 1}\n', "line 1: no 'terms'; nearest: term; there are term, sum"),
        (b'{"terms": "1", "sum": "many"}\n', "line 1: 'sum' should be a whole number, got str 'many'"),
        (b"[1, 2]\n", "line 1: expected an object with named fields, got list [1, 2]"),
    ],
)
def test_broken_files_are_rejected_with_family_task_file_and_row(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, "sums/train.jsonl")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"numbers, task sums: {path}, {message}")):
        list(Numbers(str(tmp_path)).examples("sums"))


@pytest.mark.parametrize(
    ("options", "answer", "message"),
    [
        ([], "yes", "empty choices: []"),
        (["yes", " "], "yes", "empty choices: ['yes', ' ']"),
        (["yes", "no"], "maybe", "the answer 'maybe' is none of the choices ['yes', 'no']"),
    ],
)
def test_empty_choices_and_answers_outside_them_are_rejected(
    tmp_path: Path, options: list[str], answer: str, message: str
) -> None:
    path = write(tmp_path, "c.jsonl", {"question": "Is it?", "options": options, "answer": answer})
    with pytest.raises(ValueError, match=re.escape(f"numbers, task choices: {path}, line 1: {message}")):
        list(Numbers(sources={"choices": str(path)}).examples("choices"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path, "sums/train.jsonl", SUM)
    reader = Numbers(str(tmp_path))
    for method in (reader.task, reader.fingerprint, lambda name: list(reader.examples(name))):
        with pytest.raises(ValueError, match="no task 'sumz' in numbers; nearest: sums"):
            method("sumz")
    with pytest.raises(ValueError, match=r"numbers, task choices: no train split in .*; expected choices/train.csv"):
        list(reader.examples("choices"))
    with pytest.raises(ValueError, match=r"no validation split in .*since upstream publishes no such split"):
        list(Numbers(str(tmp_path), split="validation").examples("sums"))
    with pytest.raises(ValueError, match=r"holds the test split of no dataset of numbers; expected e.g. sums/test.jso"):
        Numbers(str(tmp_path), split="test").task_names("test")
    with pytest.raises(ValueError, match="sources names 'sumz', which is not a dataset of numbers; nearest: sums"):
        Numbers(str(tmp_path), sources={"sumz": "x.json"}).task_names("train")
    with pytest.raises(ValueError, match=r"no folder .*/nowhere, where the files of numbers should be"):
        Numbers(str(tmp_path / "nowhere")).task_names("train")
    with pytest.raises(ValueError, match=r"split must be one of .*, got 'dev'"):
        Numbers(str(tmp_path), split="dev")  # type: ignore[arg-type]
