"""`crosstask predict` on a user's file: any source of a model, nothing lost."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from chat_models import read_lines, save_with_tokenizer, write_lines
from small_runs import SmallRuns, saved_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstask.cli import main
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.inference.answer_file import AnswerFile
from crosstask.lightning_modules.inference.answering_model import AnsweringModel
from crosstask.lightning_modules.inference.loading import decoding_of
from crosstask.lightning_modules.inference.model_sources import folder_of_run
from crosstask.lightning_modules.inference.prompt_file import Question, read_questions_file

USER, ASSISTANT = {"role": "user", "content": "cat"}, {"role": "assistant", "content": "hat"}


@pytest.fixture(scope="module")
def folder(toybench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its tokenizer."""
    return save_with_tokenizer(toybench / "tokenizer", tmp_path_factory.mktemp("model"))


def test_every_line_has_an_answer_or_a_reason(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chats = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    lines = [{"prompt": "copy: cat dog", "id": "x7"}, {"messages": chats}, {"prompt": "cat " * 3000}, {"prompt": "dog"}]
    inputs, output = write_lines(tmp_path / "my.jsonl", lines), tmp_path / "answers.jsonl"
    words = ["predict", str(folder), "--inputs", str(inputs), "--output", str(output), "--max_new_tokens", "5"]
    main([*words, "--device", "cpu"])
    answers = read_lines(output)
    assert [line["line"] for line in answers] == [1, 2, 3, 4]
    assert answers[0]["id"] == "x7"
    assert "no chat template" in answers[1]["skipped"]
    assert "longer than" in answers[2]["skipped"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    for place in (0, 3):  # as transformers generates
        ids = torch.tensor([tokenizer(lines[place]["prompt"], add_special_tokens=False)["input_ids"]])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
        expected = tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert answers[place]["answer"] == expected
    assert "2 of 4 prompts answered" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="exists and is not overwritten"):
        main(words)


def test_an_interrupted_file_resumes_with_equal_answers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_lines(tmp_path / "my.jsonl", [{"prompt": f"copy: {word}"} for word in "cat dog horse cow".split()])
    words = ["predict", str(folder), "--inputs", str(inputs), "--max_new_tokens", "4", "--temperature", "1.0"]
    words += ["--device", "cpu", "--budget", "12"]
    main([*words, "--output", str(tmp_path / "whole.jsonl")])

    whole = AnsweringModel.answers

    def interrupted(*arguments: Any) -> Any:
        for count, answer in enumerate(whole(*arguments)):
            if count == 1:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(AnsweringModel, "answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([*words, "--output", str(tmp_path / "parts.jsonl")])
    with open(tmp_path / "parts.jsonl.part", "a") as file:
        file.write('{"line": 4, "ans')  # a killed process wrote half a line
    with pytest.raises(KeyboardInterrupt):
        main([*words, "--output", str(tmp_path / "parts.jsonl")])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of an interrupted command with another seed"):
        main([*words, "--output", str(tmp_path / "parts.jsonl"), "--seed", "1"])
    main([*words, "--output", str(tmp_path / "parts.jsonl")])
    assert "2 of them by an earlier run" in capsys.readouterr().out
    assert (tmp_path / "parts.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


@pytest.mark.parametrize("name", ["my.jsonl", "my.jsonl.gz", "my.csv", "my.parquet"])
def test_prompts_are_read_from_files_as_training_data_is(name: str, tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "Größe,\nbitte"}, {"id": "b", "prompt": "two"}]
    path = tmp_path / name
    match path.suffix:
        case ".jsonl" | ".gz":
            text = "\ufeff" + "\r\n".join(map(json.dumps, rows))
            path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
        case ".csv":
            path.write_text('\ufeffid,prompt\r\na,"Größe,\nbitte"\r\nb,two\r\n')
        case ".parquet":
            datasets.Dataset.from_list(rows).to_parquet(path)
    questions = read_questions_file(path)
    assert [(one.line, one.id, one.prompt) for one in questions] == [(1, "a", "Größe,\nbitte"), (2, "b", "two")]
    with pytest.raises(ValueError, match=r"no file .*absent"):
        read_questions_file(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="is a folder: name one of its files"):
        read_questions_file(tmp_path)


@pytest.mark.parametrize(
    ("row", "prompt", "references"),
    [
        ({"prompt": "cat", "completion": "hat"}, "cat", ("hat",)),
        ({"Instruction": "Rhyme.", "Input": "cat", "Output": "hat"}, "Rhyme.\ncat", ("hat",)),
        ({"instruction": "Rhyme.", "input": None, "output": 7}, "Rhyme.", ("7",)),
        ({"input": "cat", "output": ["hat", "bat"]}, "cat", ("hat", "bat")),
        ({"messages": [USER, ASSISTANT]}, "cat", ("hat",)),
        ({"messages": json.dumps([USER, ASSISTANT, {**USER, "content": "dog"}])}, "dog", ()),
        ({"conversations": [{"from": "human", "value": "cat"}, {"from": "gpt", "value": "hat"}]}, "cat", ("hat",)),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "cat", ("hat",)),
    ],
)
def test_training_rows_are_read_as_prompts_and_their_answers_as_references(
    row: dict[str, Any], prompt: str, references: tuple[str, ...], tmp_path: Path
) -> None:
    (question,) = read_questions_file(write_lines(tmp_path / "my.jsonl", [row]), system="Be brief.")
    assert (question.prompt, question.references, question.skipped) == (prompt, references, "")
    assert question.messages[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "columns", "prompt", "references"),
    [
        ({"question": "cat", "answer": "hat"}, {"input": "question", "output": "answer"}, "cat", ("hat",)),
        ({"question": "cat", "prompt": "no. 1"}, {"prompt": "question"}, "cat", ()),
        ({"question": "cat", "instruction": "no. 1", "input": "x"}, {"prompt": "question"}, "cat", ()),
        ({"task": "Rhyme.", "input": "cat", "output": "hat"}, {"instruction": "task"}, "Rhyme.\ncat", ("hat",)),
        ({"input": "cat", "answer": "hat"}, {"output": "answer"}, "cat", ("hat",)),
        ({"chat": [USER, ASSISTANT]}, {"messages": "chat"}, "cat", ("hat",)),
        ({"messages": [{"role": "guest", "content": "cat"}, {"role": "host", "content": "hat"}]}, {}, "cat", ("hat",)),
    ],
)
def test_columns_and_roles_are_mapped_as_in_training(
    row: dict[str, Any], columns: dict[str, str], prompt: str, references: tuple[str, ...], tmp_path: Path
) -> None:
    path, roles = write_lines(tmp_path / "my.jsonl", [row]), {"guest": "user", "host": "assistant"}
    (question,) = read_questions_file(path, columns=columns, roles=roles)
    assert (question.prompt, question.references) == (prompt, references)
    with pytest.raises(ValueError, match=r"columns: no field 'promt'; nearest: prompt"):
        read_questions_file(path, columns={"promt": "question"})


def test_labels_of_a_saved_dataset_are_read_by_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    datasets.Dataset.from_dict({"text": ["a film"], "label": [1]}, features=features).save_to_disk(tmp_path / "films")
    (question,) = read_questions_file(tmp_path / "films", columns={"input": "text", "output": "label"})
    assert (question.prompt, question.references) == ("a film", ("good",))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER, {"role": "assistant", "content": None, "tool_calls": [{}]}], "a conversation with tools"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a message with images"),
        ([ASSISTANT], "a conversation whose last message"),
        ([], "an empty conversation"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_skipped_by_reason(
    messages: list[Any], reason: str, tmp_path: Path
) -> None:
    (question,) = read_questions_file(write_lines(tmp_path / "my.jsonl", [{"messages": messages}]), system="Be brief.")
    assert reason in question.skipped
    assert question.messages == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": None}, "null in 'messages'"),
        ({"Prompt": None, "completion": "a"}, "null in 'prompt'"),
        ({"prompt": " "}, "empty text in 'prompt'"),
        ({"instruction": "", "input": " ", "output": "a"}, "empty text in 'instruction'"),
    ],
)
def test_an_empty_line_of_a_training_file_is_skipped_as_in_training(
    record: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    skipped, read = read_questions_file(write_lines(tmp_path / "my.jsonl", [{"id": 7, **record}, {"prompt": "a"}]))
    assert (skipped.id, skipped.skipped, skipped.messages) == (7, reason, [])
    assert read.prompt == "a"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', r"line 2: not valid JSON"),
        (
            '{"text": "a"}',
            "line 2: expected one of the fields messages, .*, or instruction and input, got the fields text; name "
            "the one to answer, e.g. --columns '{prompt: text}'",
        ),
        ('{"prompt": "a", "messages": []}', "line 2: expected one of the fields"),
        ('{"prompt": {}}', "got dict {}"),
        ('{"messages": 7}', "line 2: 'messages' should be a list of messages, got int 7"),
        ('{"messages": [{"role": "humam", "content": "a"}]}', r"line 2, 'messages'\[0\]: unknown role 'humam'"),
        ('{"messages": [{"role": "user", "content": 7}]}', "'content' should be text, got int 7"),
        ("[1]", "expected an object with prompt or messages"),
    ],
)
def test_a_line_that_cannot_be_answered_is_named_before_a_model_is_loaded(
    line: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "my.jsonl").write_text(f'{{"prompt": "fine"}}\n{line}\n')
    words = ["predict", "no/model", "--inputs", str(tmp_path / "my.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    with pytest.raises(ValueError, match=message) as error:
        main(words)
    assert "1 of 2 lines cannot be answered" in str(error.value)


def test_models_come_from_checkpoints_and_folders_of_runs(
    toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    runs = SmallRuns(toybench, tmp_path, tiny_model)
    checkpoint = saved_run(runs("tuning"), tmp_path / "run/checkpoints/last.ckpt")
    assert folder_of_run(tmp_path / "run") == checkpoint
    export = tmp_path / "run/version_0/huggingface/config.json"
    export.parent.mkdir(parents=True)
    export.write_text("{}")
    assert folder_of_run(tmp_path / "run") == export.parent
    os.utime(export, (0, checkpoint.stat().st_mtime - 1))  # a resumed run has not exported yet
    assert folder_of_run(tmp_path / "run") == checkpoint
    export.unlink()
    inputs = write_lines(tmp_path / "my.jsonl", [{"prompt": "copy: cat"}])
    answers = []
    main(["export", str(checkpoint), str(tmp_path / "exported")])
    for number, source in enumerate([checkpoint, tmp_path / "run", tmp_path / "exported"]):
        output = tmp_path / f"answers{number}.jsonl"
        words = ["--inputs", str(inputs), "--output", str(output), "--max_new_tokens", "4", "--device", "cpu"]
        main(["predict", str(source), *words])
        answers.append(output.read_text())
    assert len(set(answers)) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no model: neither config\.json"):
        main(["predict", str(tmp_path / "empty"), "--inputs", str(inputs), "--output", str(tmp_path / "x.jsonl")])


def test_decodings() -> None:
    assert decoding_of(0) == Decoding()
    with pytest.raises(ValueError, match="temperature"):
        decoding_of(-1)


def test_an_interrupted_file_of_answers_keeps_every_end_of_line(tmp_path: Path) -> None:
    """JSON leaves U+2028, U+0085 and form feeds of other scripts as they are, and `str.splitlines` splits there."""
    texts = ["one\u2028two", "three\x85four", "five\x0c\x1csix", "seven\r\neight"]
    questions = [Question(line, None, [{"role": "user", "content": "?"}]) for line in range(1, len(texts) + 1)]
    interrupted = AnswerFile(tmp_path / "answers.jsonl", {"model": "a\u2029b"})
    for question, text in zip(questions[:-1], texts, strict=False):
        interrupted.add(question, {"answer": text})
    resumed = AnswerFile(tmp_path / "answers.jsonl", {"model": "a\u2029b"})
    assert [resumed.results[line]["answer"] for line in (1, 2, 3)] == texts[:3]
    resumed.add(questions[3], {"answer": texts[3]})
    resumed.finish(questions)
    written = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["answer"] for line in written] == texts
