"""Prompts to documents."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from crosstask.datamodules.rendering.skipped_examples import skip_reason
from crosstask.datamodules.rendering.tokenization import (
    load_tokenizer,
    tokenize_joint,
    tokenize_pair,
    tokenize_sources,
    tokenizer_fingerprint,
)
from crosstask.datamodules.schema import Example, Prompt, Task

PROMPTS = [
    Prompt("Copy the word.\nInput: cat\nOutput:", "cat"),
    Prompt("Ends in spaces   ", "yes it does"),
    Prompt("", "a text without a source"),
    Prompt("naïve Σ 日本語:", "日本 é"),
]


def test_source_and_target_are_one_text_and_eos_is_a_target(tokenizer: Any) -> None:
    for prompt, document in zip(PROMPTS, tokenize_joint(tokenizer, PROMPTS), strict=True):
        ids = document.input_ids.tolist()
        assert ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids[: document.n_source]) == prompt.source.rstrip(" ")
        assert tokenizer.decode(ids[document.n_source : -1]) == " " + prompt.target
        assert document.n_source < len(ids) - 1


def test_what_is_read_before_an_answer_is_what_preceded_the_target_in_training(tokenizer: Any) -> None:
    documents = tokenize_joint(tokenizer, PROMPTS)
    sources = tokenize_sources(tokenizer, [prompt.source for prompt in PROMPTS], pair=False)
    assert [document.input_ids[: document.n_source].tolist() for document in documents] == sources


def test_an_encoder_decoder_reads_two_texts_that_end(tokenizer: Any) -> None:
    eos = tokenizer.eos_token_id
    (document,) = tokenize_pair(tokenizer, [Prompt("Copy: cat", "cat")])
    source, target = document.input_ids[: document.n_source], document.input_ids[document.n_source :]
    assert (source[-1], target[-1]) == (eos, eos)
    assert tokenizer.decode(source[:-1]) == "Copy: cat"
    assert tokenizer.decode(target[:-1]) == "cat"
    assert tokenize_sources(tokenizer, ["Copy: cat"], pair=True) == [source.tolist()]


def test_bos_is_only_there_when_asked_for(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="no bos token"):
        tokenize_joint(tokenizer, PROMPTS, bos=True)


@pytest.mark.parametrize(
    ("level", "text", "targets", "reason"),
    [
        ("task", "x", ("y",), None),
        ("task", " \n", ("y",), "empty input"),
        ("instance", "x", ("y",), None),
        ("instance", "\n \t", ("y",), "empty input"),  # a template that renders nothing
        ("none", "", ("y",), None),  # a dialogue
        ("task", "x", (), "empty target"),
        ("task", "x", ("", " "), "empty target"),
        ("task", "x", ("", "y"), None),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    level: Any, text: str, targets: tuple[str, ...], reason: str | None
) -> None:
    task = Task("b", "t", "c", instruction_level=level)
    assert skip_reason(task, Example("t", "1", 0, text, targets)) == reason


def test_a_reader_s_reason_comes_first() -> None:
    broken = Example("t", "1", 0, "", (), skipped="the template does not apply")
    assert skip_reason(Task("b", "t", "c"), broken) == "the template does not apply"


def test_a_tokenizer_that_cannot_end_a_document_is_rejected(tmp_path: Any) -> None:
    letters = Tokenizer(models.BPE({"a": 0}, []))
    PreTrainedTokenizerFast(tokenizer_object=letters).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no eos token"):
        load_tokenizer(str(tmp_path))


def test_a_missing_tokenizer_is_named(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded from .*nowhere"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_the_fingerprint_tells_tokenizers_apart(tokenizer: Any, toybench: Any) -> None:
    again = load_tokenizer(str(toybench / "tokenizer"))
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)
    again.add_tokens(["<new>"])
    assert tokenizer_fingerprint(again) != tokenizer_fingerprint(tokenizer)


def test_the_path_of_a_missing_tokenizer_says_where_it_ends_and_who_writes_it(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=rf"as far as {tmp_path}; crosstask toybench --folder .* writes it"):
        load_tokenizer(str(tmp_path / "toybench/tokenizer"))
