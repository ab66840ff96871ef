"""A user's files in every known form and format: what is read, reported, skipped and rejected."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from crosstask.datamodules.benchmarks import FileTasks
from crosstask.datamodules.schema import Example, Turn

HELLO = (Turn("user", "Hello"), Turn("assistant", "Hi"))
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
SHAREGPT = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]

ROWS: dict[str, dict[str, Any]] = {
    "input_output": {"input": "Hello", "output": "Hi"},
    "prompt_completion": {"prompt": "Hello", "completion": "Hi"},
    "alpaca": {"instruction": "Hello", "input": "", "output": "Hi"},
    "messages": {"messages": MESSAGES},
    "sharegpt": {"conversations": SHAREGPT},
}

CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather"}}]}
EMPTY = {"role": "assistant", "content": " "}
TOOLS = "a conversation with tools"
USABLE: dict[str, dict[str, Any]] = {
    "messages": {"messages": MESSAGES},
    "conversations": {"conversations": SHAREGPT},
    "prompt": {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
}
"""A usable row by its first column."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.name.partition(".")[2]:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        case "json":
            path.write_text(json.dumps(rows, indent=1))
        case "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                for row in rows:
                    writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
        case "tsv":
            lines = [list(rows[0]), *([v if isinstance(v, str) else json.dumps(v) for v in r.values()] for r in rows)]
            path.write_text("".join("\t".join(line) + "\n" for line in lines))
        case "parquet":
            datasets.Dataset.from_list(rows).to_parquet(path)
        case "arrow":
            datasets.Dataset.from_list(rows).save_to_disk(str(path.with_suffix("")))
            next(path.with_suffix("").glob("*.arrow")).rename(path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet", "arrow"])
@pytest.mark.parametrize("form", list(ROWS))
def test_every_form_is_recognised_in_every_format(form: str, ending: str, tmp_path: Path) -> None:
    reader = FileTasks(str(write(tmp_path / f"mine.{ending}", [ROWS[form], ROWS[form]])))
    assert (reader.task_names("train"), reader.task_names("validation"), reader.task_names("test")) == (
        ["mine"],
        [],
        ["mine"],
    )
    turns = HELLO if form in ("messages", "sharegpt") else ()
    assert list(reader.examples("mine")) == [
        Example("mine", f"mine-{index}", index, "Hello", ("Hi",), turns=turns) for index in (0, 1)
    ]
    assert reader.unread_lines() == [f"mine: the form of the rows is {form}"]


def test_columns_are_mapped_and_the_others_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "qa.csv", [{"question": "Hello", "answer": "Hi", "source": "web", "id": "7"}])
    with pytest.raises(ValueError, match=r"qa\.csv, line 2: the columns question, answer, source, id are those of no"):
        FileTasks(str(path)).task("qa")
    reader = FileTasks(str(path), columns={"input": "question", "output": "answer"})
    assert [(e.input, e.targets, e.id) for e in reader.examples("qa")] == [("Hello", ("Hi",), "7")]
    assert reader.unread_lines() == [
        "qa: the form of the rows is input_output (input from 'question', output from 'answer'); "
        "columns that are not read: source"
    ]
    assert reader.fingerprint("qa") != FileTasks(str(path), columns={"input": "answer", "output": "id"}).fingerprint(
        "qa"
    )
    with pytest.raises(ValueError, match="input_output has no field 'inputs'; nearest: input"):
        FileTasks(str(path), form="input_output", columns={"inputs": "question"})
    with pytest.raises(ValueError, match=r"line 2: no 'questions'; nearest: question"):
        list(
            FileTasks(str(path), form="input_output", columns={"input": "questions", "output": "answer"}).examples("qa")
        )


def test_fields_of_messages_are_reported(tmp_path: Path) -> None:
    rows = [{"messages": [{**MESSAGES[0], "name": "Bo"}, MESSAGES[1]], "source": "web", "system": "Be kind."}]
    reader = FileTasks(str(write(tmp_path / "chat.jsonl", rows)))
    assert reader.unread_lines()[0].endswith("messages; columns that are not read: source, messages[].name")
    (example,) = reader.examples("chat")
    assert example.turns == (Turn("system", "Be kind."), *HELLO)
    assert example.input == "System: Be kind.\nUser: Hello"


def test_a_column_that_begins_late_is_a_warning(tmp_path: Path) -> None:
    rows = [ROWS["alpaca"]] * 1001 + [ROWS["alpaca"] | {"note": "late"}]
    reader = FileTasks(str(write(tmp_path / "late.jsonl", rows)))
    with pytest.warns(UserWarning, match=r"late\.jsonl, line 1002: columns that are not read: note"):
        assert len(list(reader.examples("late"))) == 1002


@pytest.mark.parametrize(
    ("row", "input", "turns"),
    [
        ({"instruction": "Add.", "input": "1 1", "output": "Hi"}, "Add.\n1 1", ()),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, "Hello", HELLO),
        ({"messages": [*MESSAGES, MESSAGES[0]]}, "Hello", HELLO),  # a question without an answer
        ({"conversations": MESSAGES}, "Hello", HELLO),
        ({"messages": [{"role": "User", "content": "Hello"}, {"role": "model", "content": "Hi"}]}, "Hello", HELLO),
        ({"messages": [{**message, "tool_calls": None} for message in MESSAGES]}, "Hello", HELLO),  # of a table
        ({"messages": SHAREGPT}, "Hello", HELLO),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, MESSAGES[1]]},
            "Hello",
            HELLO,
        ),
    ],
)
def test_published_variants_are_read(row: dict[str, Any], input: str, turns: tuple[Turn, ...], tmp_path: Path) -> None:
    (example,) = FileTasks(str(write(tmp_path / "mine.jsonl", [row]))).examples("mine")
    assert (example.input, example.targets, example.turns) == (input, ("Hi",), turns)


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "an empty conversation"),
        ({"messages": None}, "null in 'messages'"),
        ({"messages": MESSAGES[:1]}, "a conversation without an assistant turn"),
        ({"messages": [*MESSAGES, MESSAGES[1]]}, "a conversation whose user and assistant turns do not alternate"),
        ({"messages": MESSAGES[1:]}, "a conversation whose user and assistant turns do not alternate"),
        ({"messages": [SYSTEM, SYSTEM, *MESSAGES]}, "a conversation with a system turn behind its first turn"),
        ({"messages": [*MESSAGES, MESSAGES[0], EMPTY]}, "a conversation with an empty assistant turn"),
        ({"messages": [*MESSAGES, {"role": "tool", "content": "sunny"}]}, TOOLS),
        ({"conversations": [*SHAREGPT, {"from": "function_call", "value": "{}"}]}, TOOLS),
        ({"messages": [MESSAGES[0], CALL]}, TOOLS),
        ({"prompt": MESSAGES[:1], "completion": [CALL]}, TOOLS),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "null in 'content' of a message"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a message with images or other parts"),
    ],
)
def test_an_unusable_conversation_is_skipped_by_reason(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    good = USABLE[next(iter(row))]
    first, second = FileTasks(write(tmp_path / "mine.jsonl", [good, row])).examples("mine")
    assert first.skipped == ""
    assert second.skipped.startswith(reason)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "bot", "content": "Hi"}]}, "'messages'[0]: unknown role 'bot'; none has a similar"),
        ({"messages": [{"role": "user"}]}, "'messages'[0]: no 'content'"),
        ({"messages": [{"role": "user", "content": 7}]}, "'messages'[0]: 'content' should be text, got int 7"),
        ({"messages": "Hello"}, "'messages': not valid JSON at column 1: Expecting value; write messages as JSON"),
        ({"messages": [{"role": "assistant", "content": "Hi", "weight": 0.5}]}, "'weight' should be 1, for an answer"),
        ({"messages": [{"role": "assistant", "content": "Hi", "train": "no"}]}, "'train' should be 1, for an answer"),
        ({"messages": [{"role": "user", "content": "Hi", "train": True}]}, "'train' is true in a turn of the user"),
        ({"messages": ["Hello"]}, "'messages' should be a list of messages, got list ['Hello']"),
        ({"conversations": SHAREGPT}, "no 'messages'"),
    ],
)
def test_a_wrong_conversation_is_rejected_with_its_place(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [ROWS["messages"], row])
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2") + ".*" + re.escape(message)):
        list(FileTasks(str(path)).examples("mine"))


def test_roles_are_mapped(tmp_path: Path) -> None:
    rows = [{"messages": [MESSAGES[0], {"role": "bot", "content": "Hi"}]}]
    path = write(tmp_path / "mine.jsonl", rows)
    (example,) = FileTasks(str(path), roles={"bot": "assistant"}).examples("mine")
    assert example.turns == HELLO
    with pytest.raises(ValueError, match="roles: 'bot' should be one of system, user, assistant, got 'robot'"):
        FileTasks(str(path), form="messages", roles={"bot": "robot"})


def test_a_definition_is_the_system_turn_of_conversations(tmp_path: Path) -> None:
    reader = FileTasks(str(write(tmp_path / "mine.jsonl", [ROWS["messages"]])), definition="Be kind.")
    (example,) = reader.examples("mine")
    assert example.turns[0] == Turn("system", "Be kind.")
    assert reader.task("mine").definition == ""  # nor a second time in a prompt


def test_a_misspelt_field_is_an_error_and_other_columns_are_reported(tmp_path: Path) -> None:
    row = ROWS["input_output"] | {"source": "web", "": "0"}
    reader = FileTasks(str(write(tmp_path / "mine.jsonl", [row])))
    assert len(list(reader.examples("mine"))) == 1
    assert reader.unread_lines()[0].endswith("columns that are not read: source, (without a name)")
    path = write(tmp_path / "other.jsonl", [row | {"optons": ["Hi"]}])
    with pytest.raises(
        ValueError, match=r"unknown field 'optons'; nearest: options; .*`form: input_output` reports it"
    ):
        list(FileTasks(str(path)).examples("other"))
    assert len(list(FileTasks(str(path), form="input_output").examples("other"))) == 1


def test_numbers_are_read_as_text(tmp_path: Path) -> None:
    rows = [{"input": 7, "output": answer, "id": place} for place, answer in enumerate([1, 0.5, [True, 2], "", []])]
    examples = list(FileTasks(write(tmp_path / "mine.jsonl", rows)).examples("mine"))
    assert [(e.input, e.targets, e.id) for e in examples[:3]] == [
        ("7", ("1",), "0"),
        ("7", ("0.5",), "1"),
        ("7", ("true", "2"), "2"),
    ]
    assert [e.skipped for e in examples[3:]] == ["empty target", "empty target"]


def test_columns_in_capitals_are_recognised(tmp_path: Path) -> None:
    rows = [{"Instruction": "Hello", "Input": "", " Output": "Hi"}]
    reader = FileTasks(write(tmp_path / "mine.csv", rows))
    assert [(e.input, e.targets) for e in reader.examples("mine")] == [("Hello", ("Hi",))]
    assert "alpaca (instruction from 'Instruction', output from ' Output'" in reader.unread_lines()[0]


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"": "0", "Question": "a", "rating": "3", "Answer": "b"}, "{input: Question, output: Answer}"),
        ({"response": "a", "prompt": "b"}, "{input: prompt, output: response}"),
        (
            {"category": "a", "instruction": "b", "context": "c", "response": "d"},
            "{instruction: instruction, input: con",
        ),
        ({"body": "a", "tag": "b"}, "{input: body, output: tag}"),
        ({"text": "a"}, "{class_path: PretrainingText, init_args: {sources: {mine: FILE}, column: text}}"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "{prompt: prompt, completion: chosen}` trains on"),
        ({"prompt": "a", "chosen": MESSAGES, "rejected": MESSAGES}, "{messages: chosen}` trains on"),
        ({"prompt": "a", "chosen": MESSAGES[1:], "rejected": []}, "{prompt: prompt, completion: chosen}` trains on"),
        (
            {"chosen": "Human: a Assistant: b", "rejected": "c"},
            "write the question as `prompt` and the preferred answer",
        ),
        ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {}}, "write the question as `prompt`"),
        ({"prompt": "a", "completion": "b", "label": False}, "keep the rows with true"),
    ],
)
def test_other_columns_are_rejected_with_what_reads_them(row: dict[str, Any], hint: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [row])
    with pytest.raises(ValueError, match=re.escape(hint)):
        FileTasks(path).task("mine")
    if "trains on" in hint:
        columns = {"messages": "chosen"} if "messages" in hint else {"prompt": "prompt", "completion": "chosen"}
        (example,) = FileTasks(path, columns=columns).examples("mine")
        assert example.targets in (("Hi",), ("b",))


def test_a_table_holds_prompts_of_messages_as_json(tmp_path: Path) -> None:
    row = {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}
    (example,) = FileTasks(write(tmp_path / "mine.csv", [row])).examples("mine")
    assert example.turns == HELLO


@pytest.mark.parametrize("marks", [{"weight": 0}, {"train": False}, {"train": False, "weight": 1}])
def test_an_answer_of_weight_0_is_read_and_not_trained(marks: dict[str, Any], tmp_path: Path) -> None:
    bad, good = {**MESSAGES[1], **marks}, {**MESSAGES[1], **dict.fromkeys(marks, 1)}
    rows = [{"messages": [MESSAGES[0], bad, MESSAGES[0], good, MESSAGES[0], bad]}, {"messages": [MESSAGES[0], bad]}]
    reader = FileTasks(write(tmp_path / "mine.jsonl", rows))
    first, second = reader.examples("mine")
    assert [turn.trained for turn in first.turns] == [True, False, True, True]
    assert second.skipped == "a conversation whose answers all have weight 0 or train false"
    assert "not read" not in reader.unread_lines()[0]


def test_a_table_holds_options_as_json(tmp_path: Path) -> None:
    row = {"input": "Grass is", "output": "green", "options": ["blue", "green"]}
    plain = {"input": "Sky", "output": "blue", "options": ""}
    first, second = FileTasks(str(write(tmp_path / "mine.csv", [row, plain]))).examples("mine")
    assert (first.options, first.answer, second.options) == (("blue", "green"), 1, ())


def test_a_folder_of_files_and_a_folder_of_one_dataset(tmp_path: Path) -> None:
    write(tmp_path / "many/a.csv", [ROWS["alpaca"]])
    write(tmp_path / "many/b.jsonl", [ROWS["messages"]])
    (tmp_path / "many/a.json").write_text('{"category": "Poems"}')
    many = FileTasks(str(tmp_path / "many"))
    assert many.task_names("train") == many.task_names("test") == ["a", "b"]
    assert (many.task("a").category, many.task("b").category) == ("Poems", "b")

    write(tmp_path / "one/train.jsonl", [ROWS["alpaca"]])
    write(tmp_path / "one/test.jsonl", [ROWS["alpaca"]])
    one = FileTasks(str(tmp_path / "one"))
    assert (one.task_names("train"), one.task_names("test")) == (["one"], ["one_test"])
    assert (one.task("one").level, one.task("one_test").level) == (None, "fully_supervised")
    assert one.task("one").category == one.task("one_test").category == "one"


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([ROWS["messages"]])
    rows.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train_sft": rows}).save_to_disk(str(tmp_path / "splits"))
    for reader in (FileTasks(str(tmp_path / "plain")), FileTasks(str(tmp_path / "splits"), split="train_sft")):
        (name,) = reader.task_names("train")
        assert next(reader.examples(name)).turns == HELLO
        assert reader.fingerprint(name)
    with pytest.raises(ValueError, match="holds the splits train_sft; set `split`"):
        list(FileTasks(str(tmp_path / "splits")).examples("splits"))


def test_a_saved_dataset_keeps_its_splits_and_the_names_of_labels(tmp_path: Path) -> None:
    labels = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    parts = {
        split: datasets.Dataset.from_list([{"text": split, "label": label} for label in (1, -1)], features=labels)
        for split in ("train", "test", "unsupervised")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "films"))
    reader = FileTasks(tmp_path / "films", columns={"input": "text", "output": "label"})
    assert [reader.task_names(split) for split in ("train", "validation", "test")] == [["films"], [], ["films_test"]]
    assert reader.task("films_test").level == "fully_supervised"
    assert [(e.input, e.targets, e.skipped) for e in reader.examples("films_test")] == [
        ("test", ("good",), ""),
        ("", (), "null in 'label'"),
    ]
    assert f"splits of {tmp_path}/films that are not read: unsupervised" in reader.unread_lines()[0]
    one = FileTasks(tmp_path / "films", split="test", columns={"input": "text", "output": "label"})
    assert one.task_names("train") == one.task_names("test") == ["films"]

    (tmp_path / "copy/data").mkdir(parents=True)
    for split in ("train", "test"):
        parts[split].to_parquet(tmp_path / f"copy/data/{split}-00000-of-00001.parquet")
    copy = FileTasks(tmp_path / "copy", columns={"input": "text", "output": "label"})
    assert [copy.task_names(split) for split in ("train", "test")] == [["copy"], ["copy_test"]]
    assert next(copy.examples("copy")).targets == ("good",)


def test_a_list_beside_the_rows_is_no_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [ROWS["alpaca"]])
    write(tmp_path / "mine.json", [ROWS["alpaca"]])
    assert [example.input for example in FileTasks(path).examples("mine")] == ["Hello"]
    with pytest.raises(ValueError, match=r"mine\.json and .*mine\.jsonl are both the task 'mine'"):
        FileTasks(tmp_path).task_names("train")


def test_a_wrong_path_is_answered(tmp_path: Path, make_datamodule: Any) -> None:
    write(tmp_path / "mine.jsonl", [ROWS["messages"]])
    with pytest.raises(ValueError, match=rf"no file my\.jsonl in {tmp_path}; nearest: mine\.jsonl"):
        FileTasks(str(tmp_path / "my.jsonl")).task_names("train")
    with pytest.raises(ValueError, match="no reader or file is called 'FileTask', nearest: FileTasks"):
        make_datamodule(benchmark="FileTask")
    assert make_datamodule(benchmark=str(tmp_path / "mine.jsonl")).benchmark.task_names("train") == ["mine"]
