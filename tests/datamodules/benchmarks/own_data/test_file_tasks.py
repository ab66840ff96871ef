import json
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks.own_data.file_tasks import FileTasks
from crosstask.datamodules.schema import Demonstration, Example, Task

ABOUT: dict[str, Any] = {
    "definition": "Write a word that rhymes.",
    "category": "Poem Generation",
    "positive_examples": [{"input": "cat", "output": "hat", "explanation": "Both end in -at."}],
    "metric": "exact_match",
    "match": "gsm8k",
    "sources": ["rhymes"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "train/rhymes",
        {"input": "cat", "output": ["hat", "bat"]},
        {"id": "b", "input": "tree", "output": "sea"},
    )
    (tmp_path / "train/rhymes.json").write_text(json.dumps(ABOUT))
    write(tmp_path, "test/colours", {"input": "Grass is", "output": "green", "options": ["blue", "green"]})
    return tmp_path


def write(folder: Path, name: str, *rows: object) -> None:
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_tasks_read_as_their_files_say(folder: Path) -> None:
    reader = FileTasks(str(folder), benchmark="mine")
    assert [reader.task_names(split) for split in ("train", "validation", "test")] == [["rhymes"], [], ["colours"]]
    assert reader.task("rhymes") == Task(
        benchmark="mine",
        name="rhymes",
        category="Poem Generation",
        definition="Write a word that rhymes.",
        positive_examples=(Demonstration("cat", "hat", "Both end in -at."),),
        sources=("rhymes",),
        metric="exact_match",
        match="gsm8k",
    )
    assert list(reader.examples("rhymes")) == [
        Example("rhymes", "rhymes-0", 0, "cat", ("hat", "bat")),
        Example("rhymes", "b", 1, "tree", ("sea",)),
    ]


def test_examples_suffice(folder: Path) -> None:
    reader = FileTasks(str(folder), benchmark="mine")
    assert reader.task("colours") == Task("mine", "colours", category="colours", instruction_level="instance")
    expected = Example("colours", "colours-0", 0, "Grass is", ("green",), options=("blue", "green"), answer=1)
    assert list(reader.examples("colours")) == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"output": "a"}, "no 'input'"),
        ({"input": "a"}, "no 'output'; none has a similar name; there are input"),
        ({"input": "a", "output": {"b": 3}}, "'output' should be text or a list of texts, got dict {'b': 3}"),
        ({"input": "a", "output": ["b", " "]}, "'output' holds an empty answer beside others"),
        (
            {"input": "a", "output": "b", "option": ["b"]},
            "unknown field 'option'; nearest: options; fields are id, input",
        ),
        ({"input": "a", "output": "c", "options": ["b"]}, "the answer 'c' is none of the options [\"b\"]"),
        ({"input": "a", "output": "b", "options": ["b", "b"]}, "'options' holds an option twice"),
        ({"input": "a", "output": "b", "options": ["b", " "]}, "'options' holds an option twice, or an empty one"),
        ({"id": "rhymes-0", "input": "a", "output": "b"}, "the id 'rhymes-0' is already used at "),
    ],
)
def test_a_wrong_example_is_rejected_with_its_place(folder: Path, row: object, message: str) -> None:
    write(folder, "train/rhymes", {"input": "cat", "output": "hat"}, row)
    place = f"file_tasks, task rhymes: {folder}/train/rhymes.jsonl, line 2: {message}"
    with pytest.raises(ValueError, match=re.escape(place)):
        list(FileTasks(str(folder)).examples("rhymes"))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (ABOUT | {"metrics": "bleu"}, "unknown field 'metrics'; nearest: metric"),
        (ABOUT | {"metric": "bleu"}, "'metric' should be one of rouge_l, exact_match, "),
        (ABOUT | {"match": "GSM8K"}, "'match' should be one of text, super_natural_instructions, "),
        (ABOUT | {"positive_examples": [{"input": "a"}]}, "'positive_examples'[0]: no 'output'"),
        (
            ABOUT | {"positive_examples": ["a"]},
            "'positive_examples'[0] should be an object with input and output, got str",
        ),
        (ABOUT | {"instruction_level": "row"}, "'instruction_level' should be one of task, instance, none, got 'row'"),
    ],
)
def test_a_wrong_description_is_rejected_with_its_file(folder: Path, about: object, message: str) -> None:
    path = folder / "train/rhymes.json"
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{re.escape(message)}"):
        FileTasks(str(folder)).task("rhymes")


def test_wrong_names_are_answered(folder: Path) -> None:
    reader = FileTasks(str(folder))
    with pytest.raises(ValueError, match=r"task rhyme: no file of this task among 2 in .*; nearest: rhymes"):
        reader.task("rhyme")
    with pytest.raises(ValueError, match=r"split must be one of \['train', 'validation', 'test'\], got 'dev'"):
        reader.task_names("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"where files of rows \(.jsonl, .*\) should be"):
        FileTasks(f"{folder}/none").task_names("train")


def test_different_files_of_one_task_are_its_own_splits(folder: Path) -> None:
    write(folder, "test/rhymes", {"input": "other", "output": "mother"})
    write(folder, "validation/rhymes", {"input": "moon", "output": "June"})
    reader = FileTasks(str(folder))
    names = [reader.task_names(split) for split in ("train", "validation", "test")]
    assert names == [["rhymes"], ["rhymes_validation"], ["colours", "rhymes_test"]]
    assert [example.input for example in reader.examples("rhymes_test")] == ["other"]
    task = reader.task("rhymes_test")
    assert (task.level, task.category, task.definition) == ("fully_supervised", "Poem Generation", ABOUT["definition"])
    assert reader.task("rhymes").level is None

    (folder / "test/rhymes.json").write_text(json.dumps(ABOUT | {"definition": "Rhyme!"}))
    assert FileTasks(str(folder)).task("rhymes_test").definition == "Rhyme!"  # metadata of its own comes first
    write(folder, "test/rhymes_test", {"input": "a", "output": "b"})
    with pytest.raises(ValueError, match=r"test/rhymes.jsonl and .*rhymes_test.jsonl are both the task 'rhymes_test'"):
        FileTasks(str(folder)).task_names("test")


def test_equal_files_of_one_task_are_one_task_in_two_splits(folder: Path) -> None:
    (folder / "test/rhymes.jsonl").write_bytes((folder / "train/rhymes.jsonl").read_bytes())
    reader = FileTasks(str(folder))
    assert (reader.task_names("train"), reader.task_names("test")) == (["rhymes"], ["colours", "rhymes"])


def test_a_broken_file_hides_no_line_about_another(folder: Path) -> None:
    write(folder, "train/broken", {"input": "a", "output": "b"})
    with (folder / "train/broken.jsonl").open("a") as file:
        file.write("{not JSON\n")
    assert FileTasks(str(folder)).unread_lines() == ["colours, rhymes: the form of the rows is input_output"]


def test_a_fingerprint_follows_both_files(folder: Path) -> None:
    prints = [FileTasks(str(folder)).fingerprint("rhymes")]
    (folder / "train/rhymes.json").write_text(json.dumps(ABOUT | {"definition": "Rhyme!"}))
    prints.append(FileTasks(str(folder)).fingerprint("rhymes"))
    write(folder, "train/rhymes", {"input": "dog", "output": "fog"})
    prints.append(FileTasks(str(folder)).fingerprint("rhymes"))
    assert len(set(prints)) == 3


def test_a_task_is_its_own_category_or_what_is_said(folder: Path) -> None:
    (folder / "train/rhymes.json").write_text('{"definition": "Rhyme."}')
    assert FileTasks(str(folder)).task("rhymes").category == "rhymes"
    assert FileTasks(str(folder), category="Poems").task("rhymes").category == "Poems"
    reader = FileTasks(str(folder), definition="Answer.")
    assert (reader.task("rhymes").definition, reader.task("colours").definition) == ("Rhyme.", "Answer.")
    assert reader.task("colours").instruction_level == "task"


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("splits/default/train_tasks.txt", "--data.benchmark NaturalInstructions --data.benchmark.folder {}"),
        ("tasks/task001_rhyme.json", "--data.benchmark NaturalInstructions --data.benchmark.folder {}"),
        ("bigbench/benchmark_tasks/gsm/task.txt", "--data.benchmark BigBench --data.benchmark.source {}"),
        ("cot-prompts/navigate.txt", "--data.benchmark BigBenchHard --data.benchmark.folder {}"),
    ],
)
def test_the_folder_of_a_published_benchmark_names_its_reader(path: str, options: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("text\n")
    with pytest.raises(ValueError, match=re.escape(options.format(tmp_path))):
        FileTasks(str(tmp_path)).task_names("train")
