"""MMLU, BIG-Bench Hard and RAFT."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks.bbh import OUTSIDE, BigBenchHard
from crosstask.datamodules.benchmarks.mmlu import MMLU
from crosstask.datamodules.benchmarks.multiple_choice import UNLABELLED
from crosstask.datamodules.benchmarks.raft import RAFT
from crosstask.datamodules.schema import Demonstration, Example

needs_data = pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")

ANATOMY = "The following are multiple choice questions (with answers) about anatomy."


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_mmlu_reads_a_subject_with_its_demonstrations(tmp_path: Path) -> None:
    write(tmp_path, "test/anatomy_test.csv", '"Which, of ""these""?",a nerve,"a\nbone",a vein,4,B\n')
    write(tmp_path, "dev/anatomy_dev.csv", "How many?,1,2,3,4,D\n")
    reader = MMLU(str(tmp_path))
    assert reader.task_names("test") == ["anatomy"]
    question = 'Which, of "these"?\nA. a nerve\nB. a\nbone\nC. a vein\nD. 4\nAnswer:'
    assert list(reader.examples("anatomy")) == [
        Example("anatomy", "test-0", 0, f"{ANATOMY}\n\n{question}", ("B",), options=tuple("ABCD"), answer=1)
    ]
    task = reader.task("anatomy")
    assert (task.parent, task.metric, task.definition, task.instruction_level) == (
        "mmlu",
        "accuracy",
        ANATOMY,
        "instance",
    )
    assert task.positive_examples == (Demonstration("How many?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", "D"),)
    assert [example.id for example in MMLU(str(tmp_path), split="train").examples("anatomy")] == ["train-0"]
    write(tmp_path, "val/anatomy_val.csv", "How few?,1,2,3,4,A\n")
    (held_out,) = MMLU(str(tmp_path), split="validation").examples("anatomy")
    assert (held_out.id, held_out.input) == ("validation-0", f"{ANATOMY}\n\nHow few?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:")
    before = reader.fingerprint("anatomy")
    write(tmp_path, "dev/anatomy_dev.csv", "How many?,1,2,3,4,C\n")
    assert reader.fingerprint("anatomy") != before


def test_mmlu_reads_the_rows_of_the_hub(tmp_path: Path) -> None:
    record: dict[str, Any] = {"question": "Which?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2}
    path = write(tmp_path, "a.jsonl", json.dumps(record))
    (example,) = MMLU(sources={"anatomy": str(path)}).examples("anatomy")
    assert example.input == f"{ANATOMY}\n\nWhich?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    assert (example.targets, example.answer) == (("C",), 2)
    write(tmp_path, "a.jsonl", json.dumps(record | {"answer": 4}))
    with pytest.raises(
        ValueError, match=r"mmlu, task anatomy: .*a.jsonl, line 1: expected 4 choices and the index of one, got 4 and 4"
    ):
        list(MMLU(sources={"anatomy": str(path)}).examples("anatomy"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Which?,a,b,c,d,B\nWhich?,a,b,c\n", "line 2: expected 6 values (question, A, B, C, D, answer), got 4"),
        ("Which?,a,b,c,d,E\n", "line 1: 'answer' should be one of A, B, C, D, got str 'E'"),
        ("Which?,a,b,c,d,\n", "line 1: 'answer' should be one of A, B, C, D, got str ''"),
    ],
)
def test_mmlu_rejects_broken_files(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "test/anatomy_test.csv", text)
    with pytest.raises(ValueError, match=re.escape(f"mmlu, task anatomy: {path}, {message}")):
        list(MMLU(str(tmp_path)).examples("anatomy"))


NAVIGATE = {"canary": "no training", "examples": [{"input": "Back?\nOptions:\n- Yes\n- No ", "target": "No"}]}
PROMPT = """No training.
-----
Follow the way.

Q: One step. Back?
Options:
- Yes
- No
A: Let's think step by step.
We take a step. So the answer is No.

Q: No step. Back?
A: Let's think step by step. We stay. So the answer is Yes."""


def write_navigate(folder: Path, record: object = NAVIGATE) -> Path:
    write(folder, "cot-prompts/navigate.txt", PROMPT)
    return write(folder, "bbh/navigate.json", json.dumps(record))


def test_big_bench_hard_shows_as_much_as_is_asked(tmp_path: Path) -> None:
    write_navigate(tmp_path)
    question = "Q: Back?\nOptions:\n- Yes\n- No\nA:"
    reader = BigBenchHard(str(tmp_path))
    assert list(reader.examples("navigate")) == [
        Example("navigate", "test-0", 0, f"Follow the way.\n\n{question}", ("No",), options=("Yes", "No"), answer=1)
    ]
    task = reader.task("navigate")
    assert (task.definition, task.metric) == ("Follow the way.", "exact_match")
    first, second = task.positive_examples
    assert (first.output, second.output) == ("No", "Yes")
    assert second.explanation == "Let's think step by step. We stay. So the answer is Yes."
    (example,) = BigBenchHard(str(tmp_path), prompting="answer_only").examples("navigate")
    solved = "Q: One step. Back?\nOptions:\n- Yes\n- No\nA: No\n\nQ: No step. Back?\nA: Yes\n\n"
    assert example.input == f"Follow the way.\n\n{solved}{question}"
    (example,) = BigBenchHard(str(tmp_path), prompting="chain_of_thought").examples("navigate")
    assert example.input == PROMPT.partition("-----\n")[2] + f"\n\n{question} Let's think step by step."
    prints = {
        BigBenchHard(str(tmp_path), prompting=prompting).fingerprint("navigate")
        for prompting in ("zero_shot", "answer_only")
    }  # type: ignore[arg-type]
    write(tmp_path, "cot-prompts/navigate.txt", PROMPT.replace("Follow", "Go"))
    assert len(prints | {reader.fingerprint("navigate")}) == 3


def test_big_bench_hard_without_prompt_files_asks_the_question_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "n.jsonl", json.dumps({"input": "2 + 2 =", "target": "4"}))
    (example,) = BigBenchHard(sources={"navigate": str(path)}).examples("navigate")
    assert (example.input, example.options, example.answer) == ("Q: 2 + 2 =\nA:", (), None)
    with pytest.raises(ValueError, match=r"no cot-prompts/navigate.txt in .*, which `prompting: answer_only` needs"):
        list(BigBenchHard(sources={"navigate": str(path)}, prompting="answer_only").examples("navigate"))
    with pytest.raises(ValueError, match=r"prompting must be one of .*, got 'all'"):
        BigBenchHard(str(tmp_path), prompting="all")  # type: ignore[arg-type]


def test_big_bench_hard_rejects_what_is_broken_and_counts_what_is_dirty(tmp_path: Path) -> None:
    path = write_navigate(tmp_path, {"examples": [{"input": "Back?\nOptions:\n- Yes\n- No", "target": "Maybe"}]})
    (example,) = BigBenchHard(str(tmp_path)).examples("navigate")
    assert (example.skipped, example.targets) == (OUTSIDE, ())
    write_navigate(tmp_path, {"examples": [{"inputs": "Back?", "target": "Maybe"}]})
    with pytest.raises(ValueError, match=re.escape(f"task navigate: {path}, record 0: no 'input'; nearest: inputs")):
        list(BigBenchHard(str(tmp_path)).examples("navigate"))
    write(tmp_path, "cot-prompts/navigate.txt", PROMPT[:-20])
    with pytest.raises(ValueError, match=r"bbh, task navigate: .*navigate.txt: expected .*So the answer is"):
        list(BigBenchHard(str(tmp_path)).examples("navigate"))


ORGANIZATIONS = """Paper title,Organization name,Label,ID
A receiver,"North Carolina State Univ.,Raleigh",university,0
A display,,company,1
"""


def test_raft_reads_a_task(tmp_path: Path) -> None:
    write(tmp_path, "semiconductor_org_types/train.csv", ORGANIZATIONS)
    reader = RAFT(str(tmp_path))
    assert reader.task_names("test") == ["semiconductor_org_types"]
    task = reader.task("semiconductor_org_types")
    assert task.definition.startswith("The dataset is a list of institutions")
    assert task.definition.endswith("\nPossible labels:\n1. company\n2. research institute\n3. university")
    first, second = reader.examples("semiconductor_org_types")
    assert first.input == (
        f"{task.definition}\n\nOrganization name: North Carolina State Univ.,Raleigh\nPaper title: A receiver\nLabel:"
    )
    assert (first.targets, first.answer) == (("university",), 2)
    assert second.input.endswith("university\n\nPaper title: A display\nLabel:")  # an empty column is not shown


def test_raft_rejects_rows_without_a_label_and_labels_that_are_none(tmp_path: Path) -> None:
    write(tmp_path, "twitter_complaints/test_unlabeled.csv", "Tweet text,ID\nHello,50\n")
    (example,) = RAFT(str(tmp_path), split="test").examples("twitter_complaints")
    assert example.skipped == UNLABELLED
    path = write(tmp_path, "t.jsonl", '{"Tweet text": "Hi", "Label": 2}\n{"Tweet text": "Hi", "Label": 0}\n')
    hub = RAFT(sources={"twitter_complaints": str(path)})
    assert [example.targets for example in hub.examples("twitter_complaints")] == [("no complaint",), ()]
    for label, message in [("3", "a number from 0 to 2, got 3"), ('"praise"', "'praise' is none of the choices")]:
        write(tmp_path, "t.jsonl", f'{{"Tweet text": "Hi", "Label": {label}}}')
        with pytest.raises(ValueError, match=f"raft, task twitter_complaints: .*line 1: .*{message}"):
            list(hub.examples("twitter_complaints"))
    write(tmp_path, "t.jsonl", '{"Tweet": "Hi", "Label": 1}')
    with pytest.raises(ValueError, match="line 1: no 'Tweet text'; nearest: Tweet"):
        list(hub.examples("twitter_complaints"))


def test_raft_has_eleven_tasks() -> None:
    datasets = RAFT("x").datasets()
    assert len(datasets) == 11
    assert "77. wrong_exchange_rate_for_cash_withdrawal" in datasets["banking_77"].definition


@pytest.mark.real_data
@needs_data
def test_the_real_files_of_mmlu_read_whole() -> None:
    reader = MMLU("$CROSSTASK_DATA/mmlu")
    names = reader.task_names("test")
    examples = [example for name in names for example in reader.examples(name)]
    assert (len(names), len(examples)) == (57, 6569)
    assert not any(example.skipped for example in examples)
    assert {reader.task(name).parent for name in names} == {"mmlu"}


@pytest.mark.real_data
@needs_data
def test_the_real_files_of_big_bench_hard_read_whole() -> None:
    for prompting in ("zero_shot", "answer_only", "chain_of_thought"):
        reader = BigBenchHard("$CROSSTASK_DATA/bbh", prompting=prompting)  # type: ignore[arg-type]
        names = reader.task_names("test")
        examples = [example for name in names for example in reader.examples(name)]
        assert (len(names), len(examples)) == (27, 6511)
        assert [(example.task, example.index) for example in examples if example.skipped] == [
            ("movie_recommendation", 163),
            ("ruin_names", 99),
            ("ruin_names", 144),
        ]
    assert all(len(reader.task(name).positive_examples) == 3 for name in names)
