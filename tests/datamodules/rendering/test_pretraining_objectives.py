"""Span corruption and prefix language modelling: known answers, and texts that come back whole."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crosstask.datamodules.rendering.bpe import write_bpe
from crosstask.datamodules.rendering.pretraining_objectives import (
    PrefixLanguageModelling,
    SpanCorruption,
    TextDocuments,
    TextObjective,
    corrupt_spans,
    sentinel_ids,
    span_mask,
)
from crosstask.datamodules.rendering.prompts import rendering_rng
from crosstask.datamodules.rendering.special_tokens import encode
from crosstask.datamodules.rendering.tokenization import load_tokenizer

SENTINELS = np.arange(9999, 9799, -1)


def restored(source: NDArray[np.int64], target: NDArray[np.int64], sentinels: NDArray[np.int64]) -> list[int]:
    """The text of a source whose sentinels are replaced by what the target has behind them."""
    spans: dict[int, list[int]] = {}
    for token in target.tolist():
        if token in sentinels:
            spans[token] = []
        else:
            spans[[*spans][-1]].append(token)
    return [token for one in source.tolist() for token in spans.get(one, [one])]


def test_the_example_of_the_paper_has_its_source_and_target() -> None:
    words = "Thank you for inviting me to your party last week .".split()
    mask = np.array([word in ("for", "inviting", "last") for word in words])
    source, target = corrupt_spans(np.arange(len(words)), mask, SENTINELS)
    marks = {int(number): name for number, name in zip(SENTINELS, "XYZ", strict=False)}
    names = marks | dict(enumerate(words))
    assert " ".join(names[one] for one in source.tolist()) == "Thank you X me to your party Y week ."
    assert " ".join(names[one] for one in target.tolist()) == "X for inviting Y last Z"


@pytest.mark.parametrize("length", [2, 3, 5, 20, 511, 512])
def test_source_and_target_give_back_the_text(length: int) -> None:
    objective, ids = SpanCorruption(), np.arange(length)
    for number in range(20):
        source, target = objective.split(ids, SENTINELS, rendering_rng(number, "a", "b"))
        assert restored(source, target, SENTINELS) == ids.tolist()
        begin, end = PrefixLanguageModelling().split(ids, SENTINELS, rendering_rng(number, "a", "b"))
        assert [*begin, *end] == ids.tolist()
        assert min(len(begin), len(end)) > 0


@pytest.mark.parametrize(("share", "mean_span"), [(0.15, 3.0), (0.5, 8.0), (0.3, 1.0)])
def test_share_and_length_of_spans_are_those_declared(share: float, mean_span: float) -> None:
    objective, length = SpanCorruption(length=400, share=share, mean_span=mean_span), 400
    places, lengths = np.zeros(length), []
    for number in range(500):
        _, target = objective.split(np.arange(length), SENTINELS, rendering_rng(number, "a", "b"))
        marks = np.flatnonzero(np.isin(target, SENTINELS))
        lengths += [after - before - 1 for before, after in pairwise(marks.tolist())]
        places[target[~np.isin(target, SENTINELS)]] += 1
        assert len(np.unique(target)) == len(target) <= length * share + objective.sentinels
    assert places.sum() == round(length * share) * 500
    assert np.mean(lengths) == pytest.approx(mean_span, rel=0.03)
    shares = places.reshape(-1, 20).mean(axis=1) / 500
    assert shares[1:-1] == pytest.approx(share, rel=0.1)
    assert shares[[0, -1]] == pytest.approx(share, rel=0.2)  # fewer spans reach into a text's ends
    if mean_span > 1:
        assert (min(lengths), max(lengths) > 2 * mean_span) == (1, True)


def test_the_span_of_a_short_text_is_anywhere() -> None:
    masks = [span_mask(6, 0.15, 3.0, rendering_rng(number, "a", "b")) for number in range(1200)]
    assert np.sum(masks, axis=0) == pytest.approx(200, abs=50)


def test_places_of_a_prefix_are_uniform() -> None:
    split = PrefixLanguageModelling().split
    cuts = [len(split(np.arange(5), SENTINELS, rendering_rng(number, "a", "b"))[0]) for number in range(2000)]
    assert np.bincount(cuts, minlength=5)[1:] == pytest.approx(500, abs=80)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "bytes"
    write_bpe(["no merges"], folder, vocabulary=280, longest=64, sentinels=20)
    return folder


def test_long_texts_become_pieces_with_sentinels_in_falling_ids(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folder))
    sentinels = sentinel_ids(tokenizer, 20)
    assert sentinels.tolist() == list(range(len(tokenizer) - 1, len(tokenizer) - 21, -1))
    [ids] = encode(tokenizer, ["A text with <extra_id_0> in it, of more than one piece."])
    assert not np.isin(ids, sentinels).any()  # text never becomes a sentinel
    documents = TextDocuments(SpanCorruption(length=20), tokenizer, None).documents(ids, rendering_rng(0, "a", "b"))
    eos = tokenizer.eos_token_id
    assert len(documents) == -(-len(ids) // 20)
    assert all(one.input_ids[one.n_source - 1] == one.input_ids[-1] == eos for one in documents)
    sides = [(one.input_ids[: one.n_source - 1], one.input_ids[one.n_source : -1]) for one in documents]
    assert [token for source, target in sides for token in restored(source, target, sentinels)] == ids
    assert tokenizer.decode(sides[0][1]).startswith("<extra_id_0>")


def test_what_cannot_be_corrupted_is_rejected(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folder))
    with pytest.raises(ValueError, match=r"needs 27 sentinel tokens, .* has no <extra_id_20>: .* --sentinels 27"):
        TextDocuments(SpanCorruption(), tokenizer, None)
    assert TextDocuments(SpanCorruption(length=20), tokenizer, None).documents([5], rendering_rng(0, "a", "b")) == []
    spans = [{"mean_span": value} for value in (0.5, float("nan"), float("inf"))]
    for wrong in ({"share": 1.0}, {"length": 3}, *spans):
        with pytest.raises(ValueError, match="must"):
            SpanCorruption(**wrong)


@pytest.mark.parametrize("objective", [SpanCorruption(), SpanCorruption(length=9, mean_span=1.0), SpanCorruption(4)])
def test_no_piece_needs_more_sentinels_than_declared(objective: TextObjective) -> None:
    for length in range(2, objective.length + 1):
        target = objective.split(np.arange(length), SENTINELS, rendering_rng(0, "a", str(length)))[1]
        assert np.isin(target, SENTINELS).sum() <= objective.sentinels
