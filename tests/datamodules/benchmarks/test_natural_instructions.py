import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks import natural_instructions
from crosstask.datamodules.benchmarks.natural_instructions import NaturalInstructions
from crosstask.datamodules.data_files import parse_json
from crosstask.datamodules.schema import Demonstration, Example, Task

RECORD: dict[str, Any] = {
    "Contributors": ["A. Person"],
    "Source": ["rhymes"],
    "Categories": ["Word Analogy", "Rhyme Generation"],
    "Definition": ["Write a rhyme.", "Another wording."],
    "Input_language": ["English"],
    "Output_language": ["English"],
    "Positive Examples": [{"input": "cat", "output": "hat", "explanation": "Both end in -at."}],
    "Negative Examples": [{"input": "dog", "output": "cat"}],
    "Instances": [
        {"id": "task1-x", "input": "house", "output": ["mouse", "louse", "mouse"]},
        {"id": "task1-y", "input": "tree", "output": "sea"},
        {"id": "task1-z", "input": "", "output": [""]},
    ],
    "Instance License": ["Apache 2.0"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path, "task1_rhyme", RECORD)
    write_task(tmp_path, "task2_antonym", RECORD | {"Categories": ["Word Semantics"]})
    write_split(tmp_path, "train", "task1_rhyme\n\n task2_antonym \n")
    write_split(tmp_path, "test", "task2_antonym\n")
    return tmp_path


def write_task(folder: Path, name: str, record: object) -> Path:
    (folder / "tasks").mkdir(exist_ok=True)
    path = folder / "tasks" / f"{name}.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def write_split(folder: Path, split: str, text: str) -> None:
    (folder / "splits" / "default").mkdir(parents=True, exist_ok=True)
    (folder / "splits" / "default" / f"{split}_tasks.txt").write_text(text, encoding="utf-8")


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def read_all(folder: Path, name: str = "task1_rhyme") -> tuple[Task, list[Example]]:
    reader = NaturalInstructions(str(folder))
    return reader.task(name), list(reader.examples(name))


def test_a_task_reads_as_its_file_says(folder: Path) -> None:
    task, examples = read_all(folder)
    assert task == Task(
        benchmark="super_natural_instructions",
        name="task1_rhyme",
        category="Word Analogy",
        definition="Write a rhyme.",
        positive_examples=(Demonstration("cat", "hat", "Both end in -at."),),
        negative_examples=(Demonstration("dog", "cat", ""),),
        sources=("rhymes",),
        metric="exact_match",
        match="super_natural_instructions",
        licence="Apache 2.0",
    )
    assert examples == [
        Example("task1_rhyme", "task1-x", 0, "house", ("mouse", "louse")),
        Example("task1_rhyme", "task1-y", 1, "tree", ("sea",)),
        Example("task1_rhyme", "task1-z", 2, "", ("",)),  # unusable, and skipped with a reason further on
    ]


def test_the_first_release_reads_the_same(folder: Path) -> None:
    old = without(RECORD, "Instance License") | {
        "Definition": "Write a rhyme.",
        "Instances": [{"input": "house", "output": ["mouse"]}, {"input": "tree", "output": ["sea"]}],
    }
    write_task(folder, "task3_old", old)
    task, examples = read_all(folder, "task3_old")
    assert (task.definition, task.licence) == ("Write a rhyme.", "")
    assert [example.id for example in examples] == ["task3_old-0", "task3_old-1"]


@pytest.mark.parametrize(
    ("category", "metric"),
    [
        ("Textual Entailment", "exact_match"),
        ("Cause Effect Classification", "exact_match"),
        ("Coreference Resolution", "exact_match"),
        ("Dialogue Act Recognition", "exact_match"),
        ("Answerability Classification", "exact_match"),
        ("Word Analogy", "exact_match"),
        ("Title Generation", "rouge_l"),
        ("Sentiment Analysis", "rouge_l"),
    ],
)
def test_the_category_decides_the_headline_metric(folder: Path, category: str, metric: str) -> None:
    write_task(folder, "task1_rhyme", RECORD | {"Categories": [category]})
    assert NaturalInstructions(str(folder)).task("task1_rhyme").metric == metric


def test_splits_keep_the_order_of_their_files(folder: Path) -> None:
    reader = NaturalInstructions(str(folder))
    assert reader.task_names("train") == ["task1_rhyme", "task2_antonym"]
    assert reader.task_names("test") == ["task2_antonym"]
    assert reader.task_names("validation") == []
    write_split(folder, "dev", "task1_rhyme")
    assert reader.task_names("validation") == ["task1_rhyme"]


def test_folders_may_hold_environment_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHYMES", str(folder.parent))
    reader = NaturalInstructions(f"${{RHYMES}}/{folder.name}", splits=str(folder / "splits/default"))
    assert reader.task_names("test") == ["task2_antonym"]
    monkeypatch.delenv("RHYMES")
    with pytest.raises(ValueError, match=r"variable RHYMES in '\$RHYMES/superni' is not set; `export RHYMES="):
        NaturalInstructions("$RHYMES/superni")


def test_building_a_reader_touches_no_disk() -> None:
    NaturalInstructions("/does/not/exist")


def test_a_fingerprint_follows_the_file_and_its_name(folder: Path) -> None:
    reader = NaturalInstructions(str(folder))
    before = reader.fingerprint("task1_rhyme")
    assert before == reader.fingerprint("task1_rhyme") == NaturalInstructions(str(folder)).fingerprint("task1_rhyme")
    write_task(folder, "task4_same", RECORD)
    assert reader.fingerprint("task4_same") != before
    assert reader.task("task1_rhyme").definition == "Write a rhyme."  # now the file held in memory
    write_task(folder, "task1_rhyme", RECORD | {"Definition": "Changed."})
    assert reader.fingerprint("task1_rhyme") != before
    assert reader.task("task1_rhyme").definition == "Changed."


def test_a_file_is_parsed_once_and_a_fingerprint_parses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def counting_parse(text: str, place: str) -> object:
        parsed.append(place)
        return parse_json(text, place)

    monkeypatch.setattr(natural_instructions, "parse_json", counting_parse)
    reader = NaturalInstructions(str(folder))
    reader.fingerprint("task1_rhyme")
    assert parsed == []
    reader.task("task1_rhyme")
    list(reader.examples("task1_rhyme"))
    reader.fingerprint("task1_rhyme")
    assert len(parsed) == 1
    # Two tasks read in turn stay apart.
    first, second = reader.examples("task1_rhyme"), reader.examples("task2_antonym")
    assert [(a.task, b.task) for a, b in zip(first, second, strict=True)] == [("task1_rhyme", "task2_antonym")] * 3


INSTANCES = RECORD["Instances"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "expected one JSON object, got list [1]"),
        (without(RECORD, "Categories"), "the task has no 'Categories'"),
        (without(RECORD, "Definition"), "the task has no 'Definition'"),
        (without(RECORD, "Instances"), "the task has no 'Instances'; nearest: Instance License"),
        (
            without(RECORD, "Positive Examples") | {"Positive examples": []},
            "the task has no 'Positive Examples'; nearest: Positive examples",
        ),
        (RECORD | {"Definition": []}, "'Definition' of the task is empty"),
        (RECORD | {"Definition": [" "]}, "'Definition' of the task is empty"),
        (RECORD | {"Definition": 7}, "'Definition' of the task should be text or a list of texts, got int 7"),
        (RECORD | {"Source": None}, "'Source' of the task should be text or a list of texts, got NoneType None"),
        (RECORD | {"Categories": [["a"]]}, "'Categories' of the task should be text or a list of texts"),
        (RECORD | {"Instances": {}}, "'Instances' should be a list of objects, got dict {}"),
        (RECORD | {"Instances": [*INSTANCES, "x"]}, "'Instances'[3] should be an object, got str 'x'"),
        (RECORD | {"Positive Examples": [{"input": "a"}]}, "'Positive Examples'[0] has no 'output'"),
        (
            RECORD | {"Negative Examples": [{"input": "a", "output": ["b"]}]},
            "'output' of 'Negative Examples'[0] should be text, got list ['b']",
        ),
        (RECORD | {"Instances": [*INSTANCES, {"id": "a", "output": "b"}]}, "instance 3 has no 'input'"),
        (RECORD | {"Instances": [{"input": "a", "outputs": "b"}]}, "instance 0 has no 'output'; nearest: outputs"),
        (RECORD | {"Instances": [{"input": 3, "output": "b"}]}, "'input' of instance 0 should be text, got int 3"),
        (
            RECORD | {"Instances": [{"input": "a", "output": ["b", 3]}]},
            "'output' of instance 0 should be text or a list of texts, got list ['b', 3]",
        ),
        (
            RECORD | {"Instances": [*INSTANCES, INSTANCES[1]]},
            "instances 1 and 3 have the same id 'task1-y'; rename one",
        ),
    ],
)
def test_a_wrong_record_is_rejected_with_file_and_place(folder: Path, record: object, message: str) -> None:
    path = write_task(folder, "task1_rhyme", record)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_all(folder)


def test_malformed_files_are_rejected_with_line_and_column(folder: Path) -> None:
    path = folder / "tasks" / "task1_rhyme.json"
    path.write_text('{\n  "Definition": ["a"\n}', encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3: not valid JSON at column 1")):
        read_all(folder)
    path.write_bytes(b'{"Definition": "caf\xe9"}')
    with pytest.raises(ValueError, match=re.escape(f"{path}: not UTF-8 at byte 19")):
        read_all(folder)


def test_an_unknown_task_is_answered_with_the_nearest(folder: Path) -> None:
    reader = NaturalInstructions(str(folder))
    for method in (reader.task, reader.fingerprint, lambda name: list(reader.examples(name))):
        with pytest.raises(ValueError, match=r"no task 'task1_ryhme' among the 2 task files .* nearest: task1_rhyme"):
            method("task1_ryhme")


def test_missing_folders_are_named_as_far_as_they_exist(folder: Path) -> None:
    missing = folder / "nowhere" / "superni"
    expected = f"no folder {missing}/splits/default, where the split lists (without lists, set"
    with pytest.raises(ValueError, match=re.escape(expected)):
        NaturalInstructions(str(missing)).task_names("train")
    with pytest.raises(ValueError, match=re.escape(f"the path exists as far as {folder}")):
        NaturalInstructions(str(missing)).task("task1_rhyme")


def test_a_missing_list_is_answered_with_what_is_there(folder: Path) -> None:
    (folder / "splits/default/train_tasks.txt").unlink()
    with pytest.raises(ValueError, match=r"no train_tasks.txt in .*/default, which holds test_tasks.txt; set `splits`"):
        NaturalInstructions(str(folder)).task_names("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n\n", "names no task; expected one name a line"),
        ("task1_rhyme\ntask2_antonym\ntask1_rhyme\n", "more than once: 'task1_rhyme' on lines 1, 3; remove"),
        (
            "task1_rhyme\n\ntask1_ryhme\n",
            "1 of 2 tasks have no file: line 3 'task1_ryhme' (nearest: task1_rhyme); add the files",
        ),
        (
            "zzz1\nzzz2\nzzz3\nzzz4\nzzz5\n",
            "5 of 5 tasks have no file: line 1 'zzz1' (none has a similar name), "
            "line 2 'zzz2' (none has a similar name), line 3 'zzz3' (none has a similar name) and 2 more; add",
        ),
    ],
)
def test_a_wrong_split_is_rejected_with_its_lines(folder: Path, text: str, message: str) -> None:
    write_split(folder, "train", text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        NaturalInstructions(str(folder)).task_names("train")
    assert str(folder / "splits/default/train_tasks.txt") in str(error.value)


def test_an_unknown_split_is_rejected(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"split must be one of \['train', 'validation', 'test'\], got 'dev'"):
        NaturalInstructions(str(folder)).task_names("dev")


needs_data = pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")


@pytest.mark.real_data
@needs_data
@pytest.mark.parametrize(
    ("split", "n_tasks", "n_instances", "n_categories", "n_without_reference"),
    [("train", 500, 54_520, 79, 16), ("test", 80, 8_744, 11, 0)],
)
def test_the_real_files_read_whole(
    split: Any, n_tasks: int, n_instances: int, n_categories: int, n_without_reference: int
) -> None:
    reader = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    names = reader.task_names(split)
    examples = [example for name in names for example in reader.examples(name)]
    assert (len(names), len(examples)) == (n_tasks, n_instances)
    assert len({reader.task(name).category for name in names}) == n_categories
    assert sum(not any(example.targets) for example in examples) == n_without_reference
    assert all(example.input.strip() for example in examples)


@pytest.mark.real_data
@needs_data
@pytest.mark.parametrize(
    ("tasks", "n_tasks", "n_instances"), [("raw_oct2021_samples", 30, 750), ("tasks_xlingual_sample", 24, 960)]
)
def test_real_files_of_other_kinds_read_whole(tasks: str, n_tasks: int, n_instances: int) -> None:
    reader = NaturalInstructions("$CROSSTASK_DATA/superni", tasks=tasks)
    names = sorted(path.stem for path in reader.tasks.glob("*.json"))
    assert all(reader.task(name).definition for name in names)
    assert (len(names), sum(1 for name in names for _ in reader.examples(name))) == (n_tasks, n_instances)
