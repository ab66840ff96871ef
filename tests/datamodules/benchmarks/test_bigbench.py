import json
import os
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from crosstask.datamodules.benchmarks.bigbench import (
    CAPPY,
    FIRST_SENTENCE,
    REPEATED,
    UNDECIDED,
    BigBench,
    validation_places,
)
from crosstask.datamodules.schema import Example, Task

GENERATIVE: dict[str, Any] = {
    "name": "sorting",
    "keywords": ["algorithms", "zero-shot"],
    "preferred_score": "exact_str_match",
    "task_prefix": "Sort the words.\n",
    "example_input_prefix": "\nList: ",
    "example_output_prefix": "\nSorted: ",
    "examples": [{"input": "b a", "target": "a b"}, {"input": "d c", "target": ["c d", "c, d", "c d "]}],
}
CHOICE: dict[str, Any] = {
    "preferred_score": "multiple_choice_grade",
    "examples": [
        {"input": "Is it?", "target_scores": {"yes": 0, "no": 1, "maybe": 0}},
        {"input": "Is it not?", "target_scores": {"yes": 1, "no": 0}},
    ],
}


def write(folder: Path, name: str, record: object) -> Path:
    path = folder / name / "task.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def examples(folder: Path, record: object, **arguments: Any) -> list[Example]:
    write(folder, "sorting", record)
    return list(BigBench(str(folder), **arguments).examples("sorting"))


def test_a_generative_task_reads_as_its_file_says(tmp_path: Path) -> None:
    assert examples(tmp_path, GENERATIVE) == [
        Example("sorting", "0", 0, "Sort the words.\n\nList: b a\nSorted:", ("a b",)),
        Example("sorting", "1", 1, "Sort the words.\n\nList: d c\nSorted:", ("c d", "c, d")),
    ]
    assert BigBench(str(tmp_path)).task("sorting") == Task(
        benchmark="bigbench",
        name="sorting",
        category="algorithms",
        instruction_level="instance",
        sources=("sorting",),
        metric="exact_match",
        match="bigbench",
        answer_pattern=FIRST_SENTENCE,
        licence="Apache 2.0",
    )


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"output_regex": "[a-z]+"}, "[a-z]+"),
        ({"output_regex": "([0-9]+)$", "stop_string": "\n"}, "(?m:([0-9]+)$)"),
        ({"stop_string": "#"}, r"(?s:\A.+?)(?=\#|\Z)"),
        ({"output_regex": ""}, ""),
        ({"preferred_score": "multiple_choice_grade"}, ""),  # an option may have several sentences
        ({"preferred_score": "rouge"}, ""),
    ],
)
def test_the_answer_in_a_response_is_found_as_the_file_says(
    tmp_path: Path, fields: dict[str, str], pattern: str
) -> None:
    write(tmp_path, "sorting", GENERATIVE | fields)
    assert BigBench(str(tmp_path)).task("sorting").answer_pattern == pattern


@pytest.mark.parametrize(
    ("regex", "message"), [("[a-z", "not a valid regular expression"), ("(a)(b)", "at most one group")]
)
def test_a_pattern_that_cannot_be_used_is_rejected(tmp_path: Path, regex: str, message: str) -> None:
    write(tmp_path, "sorting", GENERATIVE | {"output_regex": regex})
    with pytest.raises(ValueError, match=rf"sorting.*'output_regex'.*{message}"):
        BigBench(str(tmp_path)).task("sorting")


def test_cappys_tasks_are_those_that_are_there(tmp_path: Path) -> None:
    for name in ("word_sorting", "tense", "sorting"):
        write(tmp_path, name, GENERATIVE)
    assert BigBench(str(tmp_path), tasks="cappy").task_names("test") == ["tense", "word_sorting"]
    assert BigBench(str(tmp_path), tasks="cappy", part="train").task_names("train") == ["tense", "word_sorting"]
    assert len(set(CAPPY.read_text().split())) == 45


def test_choices_are_shown_in_an_order_that_does_not_tell_the_answer(tmp_path: Path) -> None:
    first, second = examples(tmp_path, CHOICE)
    assert first.input.startswith("Q: Is it?\n  choice: ")
    assert first.input.endswith("\nA:")
    shown = re.findall(r"choice: (\w+)", first.input)
    assert sorted(shown) == ["maybe", "no", "yes"]
    assert (first.options, first.answer, first.targets) == (("yes", "no", "maybe"), 1, ("no",))
    assert second.targets == ("yes",)
    many = CHOICE | {"examples": [{"input": str(n), "target_scores": {"c": 1, "a": 0, "b": 0}} for n in range(60)]}
    places = [re.findall(r"choice: (\w+)", example.input).index("c") for example in examples(tmp_path, many)]
    assert {places.count(0), places.count(1), places.count(2)} <= set(range(8, 33))  # 20 each, six deviations
    assert BigBench(str(tmp_path)).task("sorting").metric == "accuracy"
    turned = CHOICE | {"examples": [{"input": "Is it?", "target_scores": {"no": 1, "maybe": 0, "yes": 0}}]}
    assert examples(tmp_path, turned)[0].input == first.input
    hidden = examples(tmp_path, CHOICE | {"append_choices_to_input": False})
    assert hidden[0].input == "Q: Is it?\nA:"


def test_what_upstream_drops_is_skipped_and_counted(tmp_path: Path) -> None:
    record = GENERATIVE | {"examples": [*GENERATIVE["examples"], GENERATIVE["examples"][0]]}
    assert [example.skipped for example in examples(tmp_path, record)] == ["", "", REPEATED]
    record = CHOICE | {"examples": [{"input": "x", "target_scores": {"a": 0, "b": 0}}]}
    assert [(example.skipped, example.targets) for example in examples(tmp_path, record)] == [(UNDECIDED, ())]


def test_the_split_has_the_sizes_of_tasksource() -> None:
    # n, validation: analogical_similarity, arithmetic, auto_debugging, analytic_entailment, cause_and_effect, codenames
    for total, expected in [(323, 64), (15023, 3004), (34, 16), (70, 16), (153, 30), (85, 17), (16, 16), (3, 3)]:
        assert len(validation_places(range(total), task="t", seed=0)) == expected
    assert validation_places(range(99), task="t", seed=0) == validation_places(range(99), task="t", seed=0)
    assert validation_places(range(99), task="t", seed=0) != validation_places(range(99), task="u", seed=0)
    assert validation_places(range(99), task="t", seed=0) != validation_places(range(99), task="t", seed=1)


def test_training_and_validation_share_nothing(tmp_path: Path) -> None:
    inputs = [str(number % 90) for number in range(100)]  # the last ten repeat the first ten
    record = GENERATIVE | {"examples": [{"input": text, "target": text} for text in inputs]}
    train = examples(tmp_path, record, part="train")
    validation = examples(tmp_path, record, part="validation")
    assert not {example.input for example in train} & {example.input for example in validation}
    assert sorted(example.index for example in [*train, *validation]) == list(range(100))
    assert sum(not example.skipped for example in validation) == 18
    reader = BigBench(str(tmp_path), part="train")
    assert (reader.task_names("train"), reader.task_names("test")) == (["sorting"], [])
    reader = BigBench(str(tmp_path), part="validation")
    assert (reader.task_names("train"), reader.task_names("test")) == ([], ["sorting"])


def test_a_part_of_a_task_names_its_parent(tmp_path: Path) -> None:
    write(tmp_path, "translation/from_a", GENERATIVE)
    write(tmp_path, "translation/to_a", GENERATIVE)
    reader = BigBench(str(tmp_path))
    assert reader.task_names("test") == ["translation:from_a", "translation:to_a"]
    assert (reader.task("translation:to_a").parent, reader.task("translation:to_a").sources) == (
        "translation",
        ("translation",),
    )
    assert len(list(reader.examples("translation:to_a"))) == 2
    assert BigBench(str(tmp_path), tasks=["translation:to_a"]).task_names("test") == ["translation:to_a"]


def test_rows_of_tasksource_keep_their_split(tmp_path: Path) -> None:
    import datasets

    row = {"inputs": "Q: b a\nA:", "targets": ["a b"], "multiple_choice_targets": [], "multiple_choice_scores": []}
    choice = row | {"targets": ["yes"], "multiple_choice_targets": ["no", "yes"], "multiple_choice_scores": [0, 1]}
    (tmp_path / "sorting").mkdir()
    datasets.Dataset.from_list([row | {"idx": 4}, choice | {"idx": 7}]).to_parquet(tmp_path / "sorting/train.parquet")
    (tmp_path / "sorting/validation.jsonl").write_text(json.dumps(choice | {"idx": 5}) + "\n")
    train = list(BigBench(str(tmp_path), part="train").examples("sorting"))
    assert train == [
        Example("sorting", "train-4", 0, "Q: b a\nA:", ("a b",)),
        Example("sorting", "train-7", 1, "Q: b a\nA:", ("yes",), options=("no", "yes"), answer=1),
    ]
    validation = list(BigBench(str(tmp_path), part="validation").examples("sorting"))
    assert [example.id for example in validation] == ["validation-5"]
    assert [e.id for e in BigBench(str(tmp_path)).examples("sorting")] == ["train-4", "train-7", "validation-5"]
    assert BigBench(str(tmp_path)).task("sorting").category == "bigbench"
    assert len({BigBench(str(tmp_path), part=part).fingerprint("sorting") for part in ("all", "train")}) == 2  # type: ignore[arg-type]


def test_a_fingerprint_follows_content_name_and_arguments(tmp_path: Path) -> None:
    write(tmp_path, "sorting", GENERATIVE)
    write(tmp_path, "other", GENERATIVE)
    reader = BigBench(str(tmp_path))
    found = {reader.fingerprint("sorting"), reader.fingerprint("other")}
    found |= {BigBench(str(tmp_path), seed=1).fingerprint("sorting")}
    found |= {BigBench(str(tmp_path), part="train").fingerprint("sorting")}
    write(tmp_path, "sorting", GENERATIVE | {"task_prefix": "Sort!"})
    found |= {reader.fingerprint("sorting")}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "expected one JSON object, got list [1]"),
        ({"example": []}, "no 'examples'; nearest: example"),
        ({"examples": {}}, "'examples' should be a list of objects, got dict {}"),
        ({"examples": ["x"]}, "example 0 should be an object, got str 'x'"),
        ({"examples": [{"target": "x"}]}, "example 0: no 'input'"),
        ({"examples": [{"input": "x"}]}, "example 0: no 'target'"),
        (
            {"examples": [{"input": "x", "target": 7}]},
            "example 0: 'target' should be text or a list of texts, got int 7",
        ),
        ({"examples": [{"input": "x", "target_scores": {}}]}, "'target_scores' should give each choice a score"),
        ({"examples": [{"input": "x", "target_scores": {"a": "1"}}]}, "should be numbers, got str '1'"),
        (
            {"examples": [{"input": "x", "target": "c", "target_scores": {"a": 1, "b": 0}}]},
            "the answer list ['c'] is none of the choices ['a', 'b']",
        ),
        (CHOICE | {"choice_prefix": 3}, "'choice_prefix' should be text, got int 3"),
    ],
)
def test_a_wrong_record_is_rejected_with_family_task_file_and_place(
    tmp_path: Path, record: object, message: str
) -> None:
    path = write(tmp_path, "sorting", record)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        examples(tmp_path, record)
    assert str(error.value).startswith(f"bigbench, task sorting: {path}")


def test_broken_files_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, "sorting", GENERATIVE)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"task sorting: .*task\.json: not valid JSON at column"):
        list(BigBench(str(tmp_path)).examples("sorting"))
    path.write_bytes(b'{"examples": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"task sorting: .*task\.json: not UTF-8 at byte 17"):
        list(BigBench(str(tmp_path)).examples("sorting"))


def test_unknown_names_are_answered_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "sorting", GENERATIVE)
    reader = BigBench(str(tmp_path))
    for method in (reader.task, reader.fingerprint, lambda name: list(reader.examples(name))):
        with pytest.raises(ValueError, match=r"no task 'sortin' among the 1 BIG-bench tasks .* nearest: sorting"):
            method("sortin")
    with pytest.raises(ValueError, match="has no BIG-bench task 'sortin'; nearest: sorting"):
        BigBench(str(tmp_path), tasks=["sortin"]).task_names("test")
    with pytest.raises(ValueError, match=r"part must be one of .*, got 'test'"):
        BigBench(str(tmp_path), part="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no folder .*/nowhere, where the BIG-bench tasks should be"):
        BigBench(str(tmp_path / "nowhere")).task_names("test")


def test_the_tasks_of_a_pinned_revision_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"tasksource/bigbench": {None: ["sorting", "new"], "2a1f": ["sorting"]}}  # instead of the hub
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, revision=None: tasks[name][revision])
    assert BigBench("tasksource/bigbench@2a1f").task_names("test") == ["sorting"]
    assert BigBench("tasksource/bigbench").task_names("test") == ["sorting", "new"]


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_the_real_files_read_whole() -> None:
    reader = BigBench("$CROSSTASK_DATA/bigbench")
    names = reader.task_names("test")
    found = [example for name in names for example in reader.examples(name)]
    assert (len(names), len(found)) == (16, 7126)
    assert [example.task for example in found if example.skipped] == ["operators", "sports_understanding"]
    assert sum(bool(example.options) for example in found if not example.skipped) == 2428
    parts = [BigBench("$CROSSTASK_DATA/bigbench", part=part) for part in ("train", "validation")]  # type: ignore[arg-type]
    assert [sum(1 for _ in part.examples("tense")) for part in parts] == [229, 57]
