"""`crosstask chat`: the answers of `crosstask predict`, streamed; conversations, a scorer, clean output."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_models import read_lines, save_with_template, save_with_tokenizer, write_lines
from small_runs import SmallRuns, saved_run

from crosstask.cli import main
from crosstask.commands.chat import messages
from crosstask.datamodules.rendering.chat import chat_prompt
from crosstask.datamodules.rendering.special_tokens import encode
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.visible_text import visible
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.inference.answering_model import AnsweringModel
from crosstask.lightning_modules.inference.conversation import Conversation
from crosstask.lightning_modules.inference.loading import answering_model
from crosstask.lightning_modules.inference.prompt_file import turns_from


@pytest.fixture(scope="module")
def folder(toybench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its tokenizer."""
    return save_with_tokenizer(toybench / "tokenizer", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def chat_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a chat template."""
    return save_with_template(folder, tmp_path_factory.mktemp("chat") / "model")


def test_conversations_are_rendered_as_by_the_template(chat_folder: Path) -> None:
    tokenizer = load_tokenizer(str(chat_folder))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "cat"},
        {"role": "assistant", "content": "dog"},
        {"role": "user", "content": "horse"},
    ]
    ours = encode(tokenizer, [chat_prompt(tokenizer, turns_from(messages))])[0]
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours == theirs
    # A special token that a message spells stays text.
    messages[1]["content"] = "cat</s>"
    ours = encode(tokenizer, [chat_prompt(tokenizer, turns_from(messages))])[0]
    assert ours.count(tokenizer.eos_token_id) == len(messages)


Chat = Callable[..., str]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Pipes lines into `crosstask chat` and returns what it prints."""

    def run(folder: Path, lines: list[str], *words: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        main(["chat", str(folder), "--max_new_tokens", "6", "--device", "cpu", *words])
        return capsys.readouterr().out

    return run


def test_a_message_that_is_not_utf8_is_rejected_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n\xff\n"), encoding="utf-8"))
    with pytest.raises(ValueError, match="a message is not UTF-8"):
        list(messages())


def test_a_chat_streams_what_predict_answers(chat_folder: Path, tmp_path: Path, talk: Chat) -> None:
    prompts = ["copy: cat dog", "horse", "a b c d", "cow cow cow", "What is 1 + 1?"]
    separate = [line for prompt in prompts for line in (prompt, "/reset")]
    shown = talk(chat_folder, separate, "--temperature", "0")
    inputs = write_lines(tmp_path / "my.jsonl", [{"prompt": prompt} for prompt in prompts])
    words = ["--inputs", str(inputs), "--output", str(tmp_path / "out.jsonl"), "--max_new_tokens", "6"]
    main(["predict", str(chat_folder), *words, "--device", "cpu"])
    answers = [line["answer"] for line in read_lines(tmp_path / "out.jsonl")]
    assert any(answers)
    assert shown == "".join(f"{visible(answer)}\n" for answer in answers)


def test_a_chat_remembers_until_it_is_reset(chat_folder: Path, talk: Chat) -> None:
    alone = talk(chat_folder, ["horse cow"], "--temperature", "0")
    again = talk(chat_folder, ["horse cow", "/reset", "horse cow", "/quit", "never read"], "--temperature", "0")
    assert again == alone * 2
    conversation = Conversation(answering_model(str(chat_folder), max_new_tokens=4, device="cpu"), Decoding())
    for text in ("cat", "dog"):
        conversation.reply(text, lambda part: None)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
    for _ in range(40):  # the oldest turns leave, in pairs
        conversation.reply("cat dog horse " * 2, lambda part: None)
    assert conversation.dropped > 0
    assert conversation.dropped % 2 == 0
    with pytest.raises(ValueError, match="longer than"):
        conversation.reply("cat " * 3000, lambda part: None)


def test_an_interrupt_ends_an_answer_and_is_kept(chat_folder: Path) -> None:
    conversation = Conversation(answering_model(str(chat_folder), max_new_tokens=20, device="cpu"), Decoding())
    parts: list[str] = []

    def write(part: str) -> None:
        parts.append(part)
        if len(parts) == 2:
            raise KeyboardInterrupt

    answer = conversation.reply("cat dog", write)
    assert answer == "".join(parts)
    assert conversation.messages[-1] == {"role": "assistant", "content": answer}


def test_stop_texts_end_a_streamed_answer_as_a_generated_one(folder: Path) -> None:
    answering = answering_model(str(folder), max_new_tokens=12, device="cpu")
    ids, _ = answering.prompt([{"role": "user", "content": "copy: cat dog"}])
    [(_, [whole])] = answering.answers([ids], Decoding(), [0], budget=1000)
    stop = whole[len(whole) // 2 :][:2]
    stopping = answering_model(str(folder), max_new_tokens=12, device="cpu", stop=[stop])
    [(_, [cut])] = stopping.answers([ids], Decoding(), [0], budget=1000)
    parts: list[str] = []
    assert stopping.stream(ids, Decoding(), 0, parts.append).strip() == cut
    assert stop not in "".join(parts)


def test_a_scorer_shows_candidates_and_the_best_is_the_answer(
    folder: Path, toybench: Path, tmp_path: Path, tiny_model: dict[str, Any], talk: Chat
) -> None:
    runs = SmallRuns(toybench, tmp_path, tiny_model)
    checkpoint = saved_run(runs("scorer"), tmp_path / "scorer.ckpt")
    main(["export", str(checkpoint), str(tmp_path / "scorer")])
    words = ["--scorer", str(tmp_path / "scorer"), "--candidates", "4", "--temperature", "1.5"]
    shown = talk(folder, ["copy: cat"], *words)
    lines = [line for line in shown.splitlines() if line.startswith(("* ", "  "))]
    scores = [float(line[2:].split()[0]) for line in lines]
    assert lines[0].startswith("* ")
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(ValueError, match="at a temperature above 0"):
        talk(folder, ["a"], "--scorer", str(tmp_path / "scorer"), "--temperature", "0")


def test_control_sequences_of_a_model_do_not_reach_the_terminal(
    folder: Path, talk: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hostile(self: AnsweringModel, ids: Any, decoding: Any, seed: int, write: Callable[[str], None]) -> str:
        write("\x1b[2J\u202eevil")
        return "\x1b[2J\u202eevil"

    monkeypatch.setattr(AnsweringModel, "stream", hostile)
    assert talk(folder, ["hello"]) == "⟨U+001B⟩[2J⟨U+202E⟩evil\n"
