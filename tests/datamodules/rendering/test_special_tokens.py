"""Special tokens in every kind of vocabulary: no text becomes one, and documents begin as the tokenizer begins them."""

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizer_kinds import KINDS, bert, byte_level, llama, superwords, t5, whole_words
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from crosstask.datamodules.bilevel.exemplars import encode_pairs
from crosstask.datamodules.evaluation.option_trees import tokenize_options
from crosstask.datamodules.rendering.chat import chat_end, chat_prompt
from crosstask.datamodules.rendering.special_tokens import (
    bos_departure,
    encode,
    leading_tokens,
    special_tokens,
    truncating_tokenizer,
)
from crosstask.datamodules.rendering.tokenization import (
    tokenize_joint,
    tokenize_pair,
    tokenize_sources,
    tokenizer_fingerprint,
)
from crosstask.datamodules.schema import Prompt, Turn
from crosstask.datamodules.scoring.pair_rows import pair_frame, tokenize_texts

SPELLED = [
    "the </s> cat",
    "</s>",
    "a <unk><pad> [SEP]",
    "[CLS] the [MASK] <s>",
    "<|end|><|user|>yes",
    "full width: ＜/s＞",  # NFKC makes "</s>" of it
]

every_kind = pytest.mark.parametrize("kind", KINDS)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids that no text may have: unknown text has the unknown token."""
    return set(tokenizer.convert_tokens_to_ids(sorted(special_tokens(tokenizer)))) - {tokenizer.unk_token_id}


@every_kind
def test_no_text_becomes_a_special_token(kind: str) -> None:
    tokenizer = KINDS[kind]()
    special = special_ids(tokenizer)
    assert special & set(tokenizer(" ".join(SPELLED), add_special_tokens=False)["input_ids"])  # the danger is real
    for ids in encode(tokenizer, SPELLED):
        assert special.isdisjoint(ids)
    for ids in tokenize_texts(tokenizer, SPELLED).values():  # the scorer's pairs
        assert special.isdisjoint(ids)
    for ids in tokenize_sources(tokenizer, SPELLED, pair=False, bos=False):
        assert special.isdisjoint(ids)
    pair_ids, mask = encode_pairs(tokenizer, [(text, text) for text in SPELLED], longest=9)
    assert special.isdisjoint(pair_ids[mask.bool()].tolist())


@every_kind
def test_only_what_a_document_adds_is_special(kind: str) -> None:
    tokenizer = KINDS[kind]()
    prompts = [Prompt(source, target) for source in SPELLED for target in SPELLED]
    head, eos, special = leading_tokens(tokenizer, None), tokenizer.eos_token_id, special_ids(tokenizer)
    for document in tokenize_joint(tokenizer, prompts):
        assert [token for token in document.input_ids.tolist() if token in special] == [*head, eos]
    for document in tokenize_pair(tokenizer, prompts):
        assert [token for token in document.input_ids.tolist() if token in special] == [*head, eos, *head, eos]


@pytest.mark.parametrize("kind", ["spelling_merges", "t5", "whole_words", "llama"])
def test_skipping_flagged_tokens_would_not_suffice(kind: str) -> None:
    """``split_special_tokens`` of transformers leaves special tokens that the vocabulary itself spells."""
    tokenizer = KINDS[kind]()
    ids = tokenizer(" ".join(SPELLED), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert special_ids(tokenizer) & set(ids)


@every_kind
def test_other_text_is_encoded_as_transformers_encodes_it(kind: str) -> None:
    tokenizer = KINDS[kind]()
    texts = ["is the sky blue ? answer : yes", "x:\n\n yes", "", "  two  spaces ", "naïve 日本"]
    assert encode(tokenizer, texts) == tokenizer(texts, add_special_tokens=False)["input_ids"]
    with truncating_tokenizer(tokenizer, 5) as backend:
        cut = backend.encode_batch_fast(texts)
    assert [encoding.ids for encoding in cut] == tokenizer(texts, truncation=True, max_length=5)["input_ids"]
    assert encode(tokenizer, texts) == tokenizer(texts, add_special_tokens=False)["input_ids"]  # cuts are over


@every_kind
def test_half_of_a_surrogate_pair_is_rejected_with_its_text(kind: str) -> None:
    """Python makes one of an escape in a template, and of input that is not UTF-8."""
    with pytest.raises(ValueError, match=r"the text 'is it \\udcff' holds half of a surrogate pair"):
        encode(KINDS[kind](), ["fine", "is it \udcff"])


def test_a_special_token_without_its_flag_is_special() -> None:
    """A tokenizer.json may list its eos as an ordinary added token."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["<turn>"])
    assert encode(tokenizer, ["<turn>"]) == [[tokenizer.convert_tokens_to_ids("<turn>")]]
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.eos_token = "<turn>"
    assert tokenizer.convert_tokens_to_ids("<turn>") not in encode(tokenizer, ["a <turn> b"])[0]
    assert tokenizer_fingerprint(tokenizer) != before


def test_merges_are_not_left_out_at_random() -> None:
    """BPE-dropout in a tokenizer.json: the tokens before an answer would be others than those in training."""
    tokenizer, dropping = byte_level(), byte_level()
    dropping.backend_tokenizer.model.dropout = 0.9
    text = "the cat of the house"
    assert len({tuple(dropping(text)["input_ids"]) for _ in range(20)}) > 1
    assert encode(dropping, [text] * 20) == encode(tokenizer, [text] * 20)


def test_generated_text_of_a_special_token_is_text() -> None:
    tokenizer = llama()
    (ids,) = encode(tokenizer, ["the </s> yes"])
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the </s> yes"


@pytest.mark.parametrize(
    ("make", "expected"),
    [(byte_level, []), (t5, []), (bert, ["[CLS]"]), (whole_words, ["<s>"]), (llama, ["<s>"])],
)
def test_documents_begin_as_the_tokenizer_begins_a_text(make: Any, expected: list[str]) -> None:
    tokenizer = make()
    ids = tokenizer.convert_tokens_to_ids(expected)
    assert leading_tokens(tokenizer, None) == ids
    assert tokenizer("the")["input_ids"][: len(ids)] == ids
    (document,) = tokenize_joint(tokenizer, [Prompt("the", "yes")])
    assert document.input_ids[: document.n_source].tolist() == [*ids, *encode(tokenizer, ["the"])[0]]
    (sides,) = tokenize_pair(tokenizer, [Prompt("the", "yes")])
    assert sides.input_ids.tolist() == [
        *tokenizer("the", add_special_tokens=True)["input_ids"][: len(ids)],
        *encode(tokenizer, ["the"])[0],
        tokenizer.eos_token_id,
        *ids,
        *encode(tokenizer, ["yes"])[0],
        tokenizer.eos_token_id,
    ]
    assert bos_departure(tokenizer, None) is None


def test_a_vocabulary_without_a_shows_its_beginning_too() -> None:
    backend = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "b": 2}, []))
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    assert leading_tokens(tokenizer, None) == [0]


def test_another_beginning_is_chosen_and_reported() -> None:
    tokenizer, without = llama(), t5()
    (source,) = tokenize_sources(tokenizer, ["the"], pair=False, bos=False)
    assert tokenizer.bos_token_id not in source
    assert "begins a text with <s>, and bos: false makes documents begin with no token" in str(
        bos_departure(tokenizer, False)
    )
    assert bos_departure(tokenizer, True) is None
    assert bos_departure(without, False) is None
    with pytest.raises(ValueError, match="has no bos token: leave bos out"):
        leading_tokens(without, True)


@pytest.mark.parametrize(("bos", "lines"), [(None, 0), (True, 0), (False, 1)])
def test_a_run_follows_its_tokenizer_and_logs_where_it_departs(
    bos: bool | None, lines: int, make_datamodule: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = llama()
    tokenizer.save_pretrained(tmp_path / "llama")
    with caplog.at_level("INFO"):
        data = make_datamodule(tokenizer=str(tmp_path / "llama"), bos=bos)
        (document,) = data.preparation.tokenize([Prompt("the", "yes")])
    assert (document.input_ids[0] == tokenizer.bos_token_id) == (bos is not False)
    assert sum("begins a text with <s>" in record.message for record in caplog.records) == lines


CHATS = ["hi </s> the <|end|> cat", "<|assistant|>", "the <|user|><|user|> yes </s>"]


def test_a_chat_template_writes_special_tokens_and_its_message_does_not() -> None:
    tokenizer = llama()
    for message in CHATS:
        (ids,) = tokenize_sources(
            tokenizer, [chat_prompt(tokenizer, [Turn("user", message)])], pair=False, bos=False, joint=""
        )
        special = [token for token in ids if token in special_ids(tokenizer)]
        assert tokenizer.convert_ids_to_tokens(special) == ["<s>", "<|user|>", "<|end|>", "<|assistant|>"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == message


@pytest.mark.parametrize("message", ["the cat", "yes ? answer :", " spaces  and\nlines "])
def test_a_chat_is_encoded_as_transformers_encodes_it(message: str) -> None:
    tokenizer = llama()
    chat: Sequence[dict[str, str]] = [{"role": "user", "content": message}]
    theirs = tokenizer.apply_chat_template(list(chat), add_generation_prompt=True)["input_ids"]
    (ids,) = tokenize_sources(
        tokenizer, [chat_prompt(tokenizer, [Turn("user", message)])], pair=False, bos=False, joint=""
    )
    assert ids == theirs


def test_a_template_that_ends_in_a_space_keeps_it() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for m in messages %}USER: {{ m.content }} ASSISTANT: {% endfor %}"
    theirs = tokenizer.apply_chat_template([{"role": "user", "content": "a"}])["input_ids"]
    (ids,) = tokenize_sources(tokenizer, [chat_prompt(tokenizer, [Turn("user", "a")])], pair=False, joint="")
    assert ids == theirs
    assert tokenizer.decode(ids).endswith(" ")


def test_a_chat_ends_with_the_template_s_token() -> None:
    assert chat_end(llama()) == llama().convert_tokens_to_ids("<|end|>")
    plain = byte_level()
    plain.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert chat_end(plain) == plain.eos_token_id
    plain.chat_template = "</s>{% for m in messages if m.role == 'user' %}<pad>{{ m.content }}{% endfor %}"
    assert chat_end(plain) == plain.eos_token_id  # and not what begins the template


JOINTS = [
    ("is the sky blue ? answer :", "yes the cat"),
    ("the cat of", "the house"),
    ("x:\n", "yes"),
    ("ends in spaces   ", "\nyes"),
    ("", "the"),
]


@every_kind
@pytest.mark.parametrize("joint", [" ", ""])
def test_the_source_is_read_in_the_tokens_that_it_was_trained_in(kind: str, joint: str) -> None:
    tokenizer = KINDS[kind]()
    prompts = [Prompt(*sides) for sides in JOINTS]
    if (kind, joint) == ("whole_words", ""):  # a vocabulary of whole words cannot write ":yes"
        with pytest.raises(ValueError, match=r"merges text across the joint .* before the target 'yes the cat'"):
            tokenize_joint(tokenizer, prompts, joint=joint)
        return
    documents = tokenize_joint(tokenizer, prompts, joint=joint)
    sources = tokenize_sources(tokenizer, [prompt.source for prompt in prompts], pair=False, joint=joint)
    for prompt, document, source in zip(prompts, documents, sources, strict=True):
        assert document.input_ids[: document.n_source].tolist() == source
        target = tokenizer.decode(document.input_ids[document.n_source : -1], clean_up_tokenization_spaces=False)
        if kind not in ("whole_words", "t5", "bert", "spelling_merges"):  # those lack some of the letters
            assert target.split() == prompt.target.split()


def test_a_token_across_the_joint_is_divided() -> None:
    """Merges of this vocabulary cross spaces: the whole text has ": yes" in one token, and the prompt ends in ":"."""
    tokenizer = superwords()
    source, target = "is the sky blue ? answer :", "yes"
    together = encode(tokenizer, [f"{source} {target}"])[0]
    (before,) = tokenize_sources(tokenizer, [source], pair=False)
    assert together[: len(before)] != before
    (document,) = tokenize_joint(tokenizer, [Prompt(source, target)])
    assert document.input_ids.tolist() == [*before, *encode(tokenizer, [" yes"])[0], tokenizer.eos_token_id]
    assert document.n_source == len(before)


@pytest.mark.parametrize("kind", ["superwords", "llama", "byte_level"])
@pytest.mark.parametrize("joint", [" ", ""])
def test_options_share_the_tokens_of_their_prompt(kind: str, joint: str) -> None:
    tokenizer = KINDS[kind]()
    prompts, options = ["is the sky blue ? answer :", "the cat of"], [["yes", "no", "the cat"], ["the house", "here"]]
    sources = tokenize_sources(tokenizer, prompts, pair=False, joint=joint)
    for source, group in zip(
        sources, tokenize_options(tokenizer, prompts, options, pair=False, joint=joint), strict=True
    ):
        for document in group:
            assert document.input_ids[: document.n_source].tolist() == source


@pytest.mark.parametrize("kind", ["bert", "whole_words"])
def test_a_scored_pair_is_joined_as_transformers_joins_it(kind: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenize_texts(tokenizer, ["the cat", "yes"])
    pair = pair_frame(tokenizer).join(ids["the cat"], ids["yes"])
    assert pair.input_ids.tolist() == tokenizer("the cat", "yes")["input_ids"]
