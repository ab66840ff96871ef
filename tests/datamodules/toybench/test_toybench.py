"""The embedded benchmark: its files obey the real format, say what is true, and never change unasked."""

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import AutoTokenizer

from crosstask.datamodules.toybench.tasks import TASKS
from crosstask.datamodules.toybench.writer import write_toybench

INSTANCES = 160


@pytest.fixture(scope="module")
def toybench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toybench") / "new"
    write_toybench(folder, instances=INSTANCES)
    return folder


@pytest.fixture(scope="module")
def records(toybench: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((toybench / "tasks").iterdir())}


@pytest.fixture(scope="module")
def splits(toybench: Path) -> dict[str, list[str]]:
    folder = toybench / "splits/default"
    return {split: (folder / f"{split}_tasks.txt").read_text().splitlines() for split in ("train", "dev", "test")}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_writes_the_same_bytes(toybench: Path, tmp_path: Path) -> None:
    write_toybench(tmp_path / "again", instances=INSTANCES)
    assert files(tmp_path / "again") == files(toybench)

    write_toybench(tmp_path / "other", instances=INSTANCES, seed=1)
    other = files(tmp_path / "other")
    unchanged = {name for name, content in files(toybench).items() if other[name] == content}
    assert unchanged == {name for name in other if name.startswith("splits/") or name.endswith("tokenizer_config.json")}


def test_files_obey_the_rules_of_super_natural_instructions(records: dict[str, dict[str, Any]]) -> None:
    for name, record in records.items():
        assert re.fullmatch(r"task\d{3}_toy_[a-z_]+", name)
        assert list(record) == [
            "Contributors", "Source", "URL", "Categories", "Reasoning", "Definition", "Input_language",
            "Output_language", "Instruction_language", "Domains", "Positive Examples", "Negative Examples",
            "Instances", "Instance License",
        ]  # fmt: skip
        assert 26 <= len(record["Instances"]) <= 6500
        assert len(record["Positive Examples"]) >= 2
        assert len(record["Negative Examples"]) >= 1
        for example in record["Positive Examples"] + record["Negative Examples"]:
            assert list(example) == ["input", "output", "explanation"]
            assert all(example.values())

        inputs = [instance["input"] for instance in record["Instances"]]
        shown = [example["input"] for example in record["Positive Examples"] + record["Negative Examples"]]
        assert all(inputs)
        assert len(set(inputs + shown)) == len(inputs) + len(shown)
        assert all(instance["output"] and all(instance["output"]) for instance in record["Instances"])
    ids = [instance["id"] for record in records.values() for instance in record["Instances"]]
    assert len(set(ids)) == len(ids)
    assert len({record["Source"][0] for record in records.values()}) == len(records)  # no source straddles a split


def test_splits_list_the_three_levels(records: dict[str, dict[str, Any]], splits: dict[str, list[str]]) -> None:
    assert set(records) == set().union(*splits.values())
    assert all(len(set(names)) == len(names) for names in splits.values())
    trained = {records[name]["Categories"][0] for name in splits["train"]}

    fully_supervised = set(splits["train"]) & set(splits["test"])
    unseen = set(splits["test"]) - set(splits["train"])
    partially_supervised = {name for name in unseen if records[name]["Categories"][0] in trained}
    fully_held_out = unseen - partially_supervised
    assert len(trained) >= 12
    assert len(fully_supervised) >= 8
    assert len(partially_supervised) >= 8
    assert {records[name]["Categories"][0] for name in fully_held_out} == {
        "Keyword Extraction",
        "List Editing",
        "Repetition Detection",
    }
    assert set(splits["dev"]) & set(splits["train"])
    assert set(splits["dev"]) - set(splits["train"])
    assert not set(splits["dev"]) & set(splits["test"])
    for name, record in records.items():
        assert len(record["Instances"]) == (INSTANCES if name in splits["train"] else 100)


def test_held_out_definitions_use_only_words_that_training_used(
    records: dict[str, dict[str, Any]], splits: dict[str, list[str]]
) -> None:
    def words(names: list[str]) -> set[str]:
        return {word for name in names for word in re.findall(r"\w+", records[name]["Definition"][0])}

    assert words(splits["test"] + splits["dev"]) <= words(splits["train"])
    definitions = [record["Definition"][0] for record in records.values()]
    assert len(set(definitions)) == len(definitions)


def test_the_commonest_answer_of_a_task_is_seldom_right(records: dict[str, dict[str, Any]]) -> None:
    shares = {}
    for name, record in records.items():
        answers = Counter(instance["output"][0] for instance in record["Instances"])
        shares[name] = answers.most_common(1)[0][1] / answers.total()
    yes_or_no = {name for name, record in records.items() if record["Categories"] == ["Membership"]}
    assert max(shares[name] for name in yes_or_no) < 0.65
    assert max(share for name, share in shares.items() if name not in yes_or_no) < 0.5


SOLVED = {  # one pair of each operation, checked by reading
    "Write the same animals again.": ("list: owl cow dog", "owl cow dog"),
    "Write the foods two times.": ("list: soup egg jam", "soup egg jam soup egg jam"),
    "Write the animals in reverse order.": ("list: owl cow dog", "dog cow owl"),
    "Write the foods from last to first.": ("list: soup egg jam", "jam egg soup"),
    "Write the animals in capital letters.": ("list: owl cow dog", "OWL COW DOG"),
    "Write the first color in capital letters.": ("list: white gray green", "WHITE"),
    "Write the animals in small letters.": ("list: OWL COW DOG", "owl cow dog"),
    "How many animals are there?": ("list: owl fox dog cow", "4"),
    "Sort the animals from a to z.": ("list: owl cow dog", "cow dog owl"),
    "Sort the colors from z to a.": ("list: white gray green", "white green gray"),
    "Sort the numbers from small to big.": ("list: 9 8 11", "8 9 11"),
    "Write the first animal.": ("list: owl cow dog", "owl"),
    "Write the last animal.": ("list: owl cow dog", "dog"),
    "Write the last number.": ("list: 9 8 11", "11"),
    "Write the biggest number.": ("list: 9 8 11", "11"),
    "Write the smallest number.": ("list: 9 8 11", "8"),
    "Write the color that the name has.": ("name: Kim list: Tom gray Kim blue Leo green", "blue"),
    "Add one to each number.": ("list: 9 8 11", "10 9 12"),
    "Add two to each number.": ("list: 9 8 11", "11 10 13"),
    "Write the kind of each word.": ("list: cake red bread", "food color food"),
    "Write the kind of the first word.": ("list: cake red bread", "food"),
    "Write the kind of the last word.": ("list: cake red bread", "food"),
    "Write only the animals.": ("list: cow owl egg 9", "cow owl"),
    "Write all but the animals.": ("list: cow owl egg 9", "egg 9"),
    "Is the animal in the list? Write yes or no.": ("animal: owl list: owl cow dog", "yes"),
    "Is the number in the list? Write yes or no.": ("number: 11 list: 9 8 11", "yes"),
    "Choose the animal.": ("list: 6 or owl or 12", "owl"),
    "Fill in: name gives a color animal to name.": ("list: Tom white owl Kim", "Tom gives a white owl to Kim."),
    "Fill in: name eats a color food with name.": ("list: Tom white soup Kim", "Tom eats a white soup with Kim."),
    "Write the color.": ("list: jam egg white 9 7", "white"),
    "Write all animals but the first.": ("list: owl cow dog", "cow dog"),
    "Write the animal that the list has two times.": ("list: dog dog owl cow", "dog"),
}


@pytest.mark.parametrize("definition", SOLVED)
def test_outputs_do_what_the_definition_says(definition: str) -> None:
    [task] = [task for task in TASKS if task.definition == definition]
    assert task.draw(Random(11)) == SOLVED[definition]


def test_every_operation_has_been_checked_by_reading() -> None:
    assert {task.operation.name for task in TASKS if task.definition in SOLVED} == {
        task.operation.name for task in TASKS
    }


def test_the_tokenizer_reads_every_text_back(toybench: Path, records: dict[str, dict[str, Any]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.model_max_length) == ("<pad>", "</s>", 512)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) <= 600
    for text in ["Task: cat  7,\n\tAnswer: ", "naïve 東京 ∇\n", *(r["Definition"][0] for r in records.values())]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    encoded = tokenizer("list: cat owl", return_offsets_mapping=True)
    pieces = ["list: cat owl"[start:end] for start, end in encoded["offset_mapping"]]
    assert pieces == ["list", ":", " cat", " owl"]  # a word is a token, and nothing is added around the text


def test_a_folder_that_holds_the_benchmark_is_left_alone(toybench: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in toybench.rglob("*")}
    write_toybench(toybench, instances=INSTANCES)
    assert {path: path.stat().st_mtime_ns for path in toybench.rglob("*")} == before


def test_a_folder_that_holds_anything_else_is_rejected(toybench: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(ValueError, match=rf"{tmp_path} should be new.*something else; name another folder"):
        write_toybench(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    with pytest.raises(ValueError, match=r'"seed": 1.*but holds.*"seed": 0'):
        write_toybench(toybench, instances=INSTANCES, seed=1)


def test_too_few_and_too_many_instances_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must exceed the 100 that test a task, got 100"):
        write_toybench(tmp_path / "new", instances=100)
    with pytest.raises(ValueError, match=r"copy_animals has only about 20.. different inputs"):
        write_toybench(tmp_path / "new", instances=4000)
    assert not any(tmp_path.iterdir())
