"""Pairs in rows: the frame, the cuts, and the batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from crosstask.datamodules.rendering.special_tokens import encode
from crosstask.datamodules.schema import TokenizedExample
from crosstask.datamodules.scoring import pair_rows
from crosstask.datamodules.scoring.instruction_truncation import Cut
from crosstask.datamodules.scoring.pair_rows import PairFrame, ScoredRows, Truncation, pair_frame, tokenize_texts
from crosstask.datamodules.storage.store import open_task, write_task

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghij"]


def word_tokenizer(kind: Literal["roberta", "bert", "bare"]) -> PreTrainedTokenizerBase:
    """A word a token: a is 4, b is 5 ..., joined as RoBERTa, as BERT, or without a template."""
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "roberta":
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    if kind == "bert":
        backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    names: dict[str, Any] = {"pad_token": "<pad>", "unk_token": "<unk>"}
    names |= {"cls_token": "<s>", "sep_token": "</s>"} if kind == "bert" else {"bos_token": "<s>", "eos_token": "</s>"}
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind == "bert" else [])
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("roberta", PairFrame((0,), (2, 2), (2,), False)),
        ("bert", PairFrame((0,), (2,), (2,), True)),
        ("bare", PairFrame((0,), (2, 2), (2,), False)),  # a bare vocabulary is joined as RoBERTa joins
    ],
)
def test_a_pair_is_joined_as_its_tokenizer_joins_it(kind: Any, expected: PairFrame) -> None:
    assert pair_frame(word_tokenizer(kind)) == expected


def test_eos_stands_in_for_a_missing_start_token(tokenizer: PreTrainedTokenizerBase) -> None:
    eos = tokenizer.eos_token_id
    assert pair_frame(tokenizer) == PairFrame((eos,), (eos, eos), (eos,), False)


def test_a_tokenizer_without_special_tokens_is_rejected() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(ValueError, match="needs bos or cls, and eos or sep"):
        pair_frame(bare)


def test_a_batch_is_drawn_as_the_schema_says() -> None:
    frame = pair_frame(word_tokenizer("bert"))
    pairs = [frame.join([4, 5], [6], 1.0), frame.join([7], [], 0.25), frame.join([8], [9], 0.0)]
    batch = ScoredRows(10, 6, pad_token_id=1, frame=frame).collate([pairs[:2], pairs[2:]], step_targets=7)
    expected = {
        "input_ids": [[0, 4, 5, 2, 6, 2, 0, 7, 2, 2], [0, 8, 2, 9, 2, 1, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 0, 0, 0, 0]],
        "token_type_ids": [[0, 0, 0, 0, 1, 1, 0, 0, 0, 1], [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]],
        "offsets": [0, 6, 10, 15, 20],  # padding is a document too
        "scored": [0, 6, 10],
        "labels": [1.0, 0.25, 0.0],
        "step_count": 7,
        "longest": 6,
        "groups": [],
    }
    assert {name: torch.as_tensor(value).tolist() for name, value in batch._asdict().items()} == expected


def test_a_row_without_pairs_scores_nothing() -> None:
    batch = ScoredRows(4, 4, 1, PairFrame((0,), (2,), (), False)).collate([[]], step_targets=0)
    assert batch.scored.shape == batch.labels.shape == (0,)
    assert batch.offsets.tolist() == [0, 4]
    assert batch.longest == 0


@pytest.mark.parametrize("label", [-0.1, 1.5, 80.0, float("nan")])
def test_a_label_that_is_no_correctness_is_rejected(label: float) -> None:
    frame = pair_frame(word_tokenizer("roberta"))
    with pytest.raises(ValueError, match=rf"a label must be a correctness in \[0, 1\], got {label}"):
        ScoredRows(16, 16, 1, frame).collate([[frame.join([4], [5], label)]], 1)


@pytest.mark.parametrize("part", ["end", "beginning"])
@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize(("truncation", "theirs"), [("instruction", "only_first"), ("longest_first", "longest_first")])
def test_pairs_are_cut_as_transformers_cuts_them(kind: Any, truncation: Truncation, theirs: str, part: Cut) -> None:
    """But for a response, which keeps its beginning whatever an instruction keeps."""
    tokenizer = word_tokenizer(kind)
    tokenizer.truncation_side = {"end": "right", "beginning": "left"}[part]
    rows = ScoredRows(16, 12, 1, pair_frame(tokenizer), truncation, part=part)
    cut = 0
    for n_instruction in range(12):
        for n_response in range(8 if truncation == "instruction" else 12 if part == "end" else 5):
            instruction = " ".join("abcdefghij"[n % 10] for n in range(n_instruction))
            response = " ".join("jihgfedcba"[n % 10] for n in range(n_response))
            expected = {
                key: ids[0]
                for key, ids in tokenizer([instruction], [response], truncation=theirs, max_length=12).items()
            }
            ids = tokenize_texts(tokenizer, [instruction, response])
            pair = rows.frame.join(ids[instruction], ids[response])
            batch = rows.collate([[pair]], 1)
            length = len(expected["input_ids"])
            assert batch.input_ids[0, :length].tolist() == expected["input_ids"]
            assert batch.offsets.tolist() == [0, length, 16]
            if kind == "bert":
                assert batch.token_type_ids[0, :length].tolist() == expected["token_type_ids"]
            sizes = np.array([len(pair.input_ids)]), np.array([pair.n_source])
            assert rows.sizes(*sizes).tolist() == [length]
            assert rows.cuts(*sizes).truncated.tolist() == [len(pair.input_ids) > 12]
            cut += len(pair.input_ids) > 12
    assert cut > 15


def test_an_instruction_keeps_both_ends_unless_another_part_is_cut() -> None:
    frame = pair_frame(word_tokenizer("roberta"))
    pair = frame.join([4, 5, 6, 7, 8, 9, 10], [3], 0.5)
    kept = {part: ScoredRows(16, 10, 1, frame, part=part).cut(pair).input_ids.tolist() for part in get_args(Cut)}
    assert kept["middle"] == ScoredRows(16, 10, 1, frame).cut(pair).input_ids.tolist()
    assert {part: ids[1:-4] for part, ids in kept.items()} == {
        "middle": [4, 5, 8, 9, 10],
        "end": [4, 5, 6, 7, 8],
        "beginning": [6, 7, 8, 9, 10],
    }


def test_a_response_is_cut_only_where_it_alone_is_too_long() -> None:
    frame = pair_frame(word_tokenizer("roberta"))
    rows = ScoredRows(16, 10, 1, frame)
    pairs = [frame.join([4] * 9, [5] * 5), frame.join([4] * 9, [5] * 6), frame.join([4] * 9, [5] * 7)]
    kept = [rows.cut(pair) for pair in pairs]
    assert [ids.tolist() for ids, *_ in kept] == [[0, 4, 2, 2, *[5] * 5, 2], *2 * [[0, 2, 2, *[5] * 6, 2]]]
    cuts = rows.cuts(np.array([len(pair.input_ids) for pair in pairs]), np.array([pair.n_source for pair in pairs]))
    assert cuts.truncated.tolist() == [True, True, True]
    assert cuts.target_cut.tolist() == [False, False, True]


def test_a_pair_keeps_its_label_when_it_is_cut() -> None:
    frame = pair_frame(word_tokenizer("roberta"))
    assert ScoredRows(16, 8, 1, frame).cut(frame.join([4] * 9, [5], 0.5)).label == 0.5


@pytest.mark.parametrize("pair_length", [3, 17])
def test_a_pair_must_hold_its_frame_and_fit_a_row(pair_length: int) -> None:
    frame = pair_frame(word_tokenizer("roberta"))
    with pytest.raises(ValueError, match=rf"pair_length = {pair_length} must hold the 4 special tokens"):
        ScoredRows(16, pair_length, 1, frame)


def test_every_text_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word_tokenizer("roberta")
    seen: list[str] = []

    def counted(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
        seen.extend(texts)
        return encode(tokenizer, texts)

    monkeypatch.setattr(pair_rows, "encode", counted)
    assert tokenize_texts(tokenizer, ["a b", "c", "a b"]) == {"a b": [4, 5], "c": [6]}
    assert seen == ["a b", "c"]
    assert tokenize_texts(tokenizer, []) == {}


def test_the_stores_documents_are_pairs(tmp_path: Path) -> None:
    pairs: list[TokenizedExample | str] = [TokenizedExample(np.array([0, 4, 2, 2, 5, 2]), 4, 0.25), "no mismatch"]
    write_task(tmp_path / "task", pairs, vocabulary=20, about={})
    assert open_task(tmp_path / "task").document(0).label == 0.25
    np.save(tmp_path / "task" / "labels.npy", np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match=r"labels\.npy is damaged, it has 140 bytes instead of 132"):
        open_task(tmp_path / "task")
