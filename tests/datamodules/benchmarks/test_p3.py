import json
import os
import re
from collections import Counter
from pathlib import Path

import datasets
import pytest

from crosstask.datamodules.benchmarks.p3 import P3
from crosstask.datamodules.schema import Example


def write(folder: Path, name: str, *rows: object) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prompt(text: str, answer: str) -> dict[str, str]:
    return {"prompt": f"{text}\n", "completion": f"{answer}<|endoftext|>"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "wiki_qa_is_it", prompt("Is it a?", "No"), prompt("Is it b?", "Yes"), prompt("Is it c?", "No"))
    write(tmp_path, "wiki_qa_found_on", prompt("Found a?", ""), prompt("Found b?", "True"))
    write(tmp_path, "wiki_hop_original_explain", prompt("Explain.", "So."))
    write(tmp_path, "wiki_qa_is_it_score_eval", prompt("For ranking", "No"))
    return tmp_path


def test_every_row_of_every_template(folder: Path) -> None:
    reader = P3(str(folder), prompts="all")
    assert (reader.task_names("train"), reader.task_names("test")) == (["wiki_hop_original", "wiki_qa"], [])
    assert list(reader.examples("wiki_qa")) == [
        Example("wiki_qa", "wiki_qa-0-found_on", 0, "Found a?", (), "found_on", skipped="no answer"),
        Example("wiki_qa", "wiki_qa-1-found_on", 1, "Found b?", ("True",), "found_on"),
        Example("wiki_qa", "wiki_qa-0-is_it", 0, "Is it a?", ("No",), "is_it"),
        Example("wiki_qa", "wiki_qa-1-is_it", 1, "Is it b?", ("Yes",), "is_it"),
        Example("wiki_qa", "wiki_qa-2-is_it", 2, "Is it c?", ("No",), "is_it"),
    ]
    task = reader.task("wiki_qa")
    assert (task.category, task.sources, task.instruction_level) == ("Answer Verification", ("wiki_qa",), "instance")


def test_a_task_is_as_large_as_its_dataset(folder: Path) -> None:
    examples = list(P3(str(folder)).examples("wiki_qa"))
    assert [example.index for example in examples] == [0, 1, 2]
    assert [examples[0].template, examples[2].template] == ["is_it", "is_it"]  # the only ones with an answer
    write(folder, "wiki_qa_is_it", *[prompt(f"Is it {n}?", "No") for n in range(200)])
    write(folder, "wiki_qa_found_on", *[prompt(f"Found {n}?", "No") for n in range(200)])
    drawn = list(P3(str(folder)).examples("wiki_qa"))
    assert len(drawn) == 200
    assert min(Counter(example.template for example in drawn).values()) > 70
    assert drawn == list(P3(str(folder)).examples("wiki_qa")) != list(P3(str(folder), seed=1).examples("wiki_qa"))


def test_rows_of_the_hub_bring_choices(tmp_path: Path) -> None:
    row = {
        "inputs_pretokenized": "Is it? ",
        "targets_pretokenized": "No",
        "inputs": [3, 1],
        "answer_choices": ["Yes", "No"],
    }
    other = {**row, "targets_pretokenized": "Perhaps"}
    datasets.Dataset.from_list([row, other]).to_parquet(tmp_path / "wiki_qa_is_it.parquet")
    found = list(P3(str(tmp_path)).examples("wiki_qa"))
    assert found[0] == Example("wiki_qa", "wiki_qa-0", 0, "Is it?", ("No",), "is_it", ("Yes", "No"), 1)
    assert (found[1].skipped, found[1].targets) == ("the answer is none of the choices", ())


def test_a_fingerprint_follows_the_files_and_settings(folder: Path) -> None:
    prints = [P3(str(folder)).fingerprint("wiki_qa"), P3(str(folder), seed=1).fingerprint("wiki_qa")]
    prints.append(P3(str(folder), prompts="all").fingerprint("wiki_qa"))
    prints.append(P3(str(folder), without=["*found*", "*_score_eval"]).fingerprint("wiki_qa"))
    write(folder, "wiki_qa_is_it", prompt("Changed", "No"))
    prints.append(P3(str(folder)).fingerprint("wiki_qa"))
    assert len(set(prints)) == 5


def test_a_pattern_without_a_template_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no template is called \*ound\*, which `without` names"):
        P3(str(folder), without=["*ound*"]).task_names("train")


def test_broken_rows_are_rejected_with_their_place(folder: Path) -> None:
    def read() -> None:
        list(P3(str(folder)).examples("wiki_qa"))

    path = folder / "wiki_qa_is_it.jsonl"
    write(folder, "wiki_qa_is_it", prompt("a", "b"), {"prompt": "a"})
    with pytest.raises(ValueError, match=re.escape(f"p3, task wiki_qa: {path}, line 2: no 'completion'")):
        read()
    write(folder, "wiki_qa_is_it", {"text": "a"})
    with pytest.raises(ValueError, match=r"line 1: expected the columns prompt and completion or .*, got text"):
        read()
    path.write_text('{"prompt": "a", "comple')
    with pytest.raises(ValueError, match="line 1: not valid JSON"):
        read()
    path.write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(ValueError, match="line 1: not UTF-8"):
        read()


def test_wrong_names_are_answered(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no task 'wiki_q' among the 2 of .*; nearest: wiki_qa"):
        P3(str(folder)).task("wiki_q")
    with pytest.raises(ValueError, match="prompts must be 'one' or 'all'"):
        P3(str(folder), prompts="each")  # type: ignore[arg-type]
    write(folder, "new_set_a", prompt("a", "b"))
    with pytest.raises(
        ValueError, match="1 template begins with no known dataset's name: new_set_a; list their datasets"
    ):
        P3(str(folder)).task_names("train")
    assert P3(str(folder), datasets=["new_set", "wiki_qa", "wiki_hop"]).task_names("train")[0] == "new_set"
    with pytest.raises(ValueError, match=f"no folder {folder}/none; expected a folder with a file for each template"):
        P3(f"{folder}/none").task_names("train")


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_the_real_files_read_whole() -> None:
    every, one = P3("$CROSSTASK_DATA/p3_t0", prompts="all"), P3("$CROSSTASK_DATA/p3_t0")
    names = every.task_names("train")
    reasons = Counter(example.skipped for name in names for example in every.examples(name))
    # Seven templates of trec wrote no answer when these files were made.
    assert (len(names), reasons) == (37, {"": 9884, "no answer": 280})
    assert sum(1 for name in names for _ in one.examples(name)) == 1380
    golden = next(every.examples("wiki_qa"))
    assert (golden.template, golden.targets) == ("Decide_good_answer", ("No",))
    assert golden.input == (
        "This is a correct answer to the following question about Glacier cave. Yes or no?\n"
        "Answer: A partly submerged glacier cave on Perito Moreno Glacier .\nQuestion: how are glacier caves formed?"
    )
