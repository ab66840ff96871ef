"""Pairs in the training stream, and the responses that an evaluation ranks."""

from collections.abc import Callable

import numpy as np
import pytest

from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.packing.train_stream import TrainStream
from crosstask.datamodules.schema import ScoredBatch
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.response_sets import ResponseLoader


def prepared(data: ScorerDataModule) -> ScorerDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def loader_of(data: ScorerDataModule) -> ResponseLoader:
    loader = data.val_dataloader()
    assert isinstance(loader, ResponseLoader)
    return loader


@pytest.mark.parametrize(("size", "accumulation"), [(1, 1), (2, 1), (2, 2)])
def test_a_steps_pairs_are_counted_without_looking(
    make_scorer_data: Callable[..., ScorerDataModule], size: int, accumulation: int
) -> None:
    plan = prepared(make_scorer_data(instances={"train": 10})).plan
    assert plan is not None
    streams = [iter(TrainStream(plan, Replicas(size, rank, accumulation), steps=3)) for rank in range(size)]
    for _ in range(3):
        batches = [next(stream) for stream in streams for _ in range(accumulation)]
        assert all(isinstance(batch, ScoredBatch) for batch in batches)
        pairs = sum(len(batch.scored) for batch in batches if isinstance(batch, ScoredBatch))
        assert {batch.step_count for batch in batches if isinstance(batch, ScoredBatch)} == {pairs}
        assert pairs > 8


def test_the_report_counts_pairs_and_cuts(make_scorer_data: Callable[..., ScorerDataModule]) -> None:
    report = prepared(make_scorer_data(instances={"train": 10}, rows={"pair_length": 24})).report()
    assert report.target_tokens == report.draws
    assert 0 < report.truncated < report.draws
    assert report.target_cut == 0


def test_responses_are_one_right_response_among_mismatches(make_scorer_data: Callable[..., ScorerDataModule]) -> None:
    data = prepared(make_scorer_data(instances={"train": 4}, evaluation={"mismatches": 3}))
    batches = list(loader_of(data))
    examples = data.evaluation_examples("validation")
    assert sorted(sampled.number for batch in batches for sampled in batch.examples) == list(range(len(examples)))
    firsts = 0
    for batch in batches:
        labels = batch.pairs.labels[batch.places].split([len(found) for found in batch.responses])
        for sampled, texts, correctness in zip(batch.examples, batch.responses, labels, strict=True):
            assert len(set(texts)) == len(texts) <= 4
            assert correctness.sum() == 1.0
            assert texts[int(correctness.argmax())] == sampled.references[0]
            firsts += int(correctness.argmax()) == 0
    assert 0 < firsts < len(examples) / 2  # the right one stands anywhere


def test_responses_of_a_batch_are_found_among_its_packed_pairs(
    make_scorer_data: Callable[..., ScorerDataModule],
) -> None:
    data = prepared(make_scorer_data(instances={"train": 4}))
    tokenizer = data.preparation.tokenizer
    batch = next(iter(loader_of(data)))
    flat, starts = batch.pairs.input_ids.flatten().numpy(), batch.pairs.scored[batch.places].tolist()
    ends = {int(start): int(end) for start, end in zip(batch.pairs.offsets[:-1], batch.pairs.offsets[1:], strict=True)}
    texts = [text for of_example in batch.responses for text in of_example]
    for start, text in zip(starts, texts, strict=True):
        ids = flat[start : ends[start]]
        first = np.flatnonzero(ids == tokenizer.eos_token_id)[2] + 1  # </s> instruction </s></s> response </s>
        assert tokenizer.decode(ids[first:-1]) == text


@pytest.mark.parametrize("size", [1, 2, 7])
def test_every_replica_ranks_its_share_in_equally_many_batches(
    make_scorer_data: Callable[..., ScorerDataModule], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepared(make_scorer_data(instances={"train": 4}, evaluation={"batch_tokens": 1024}))
    loaders = []
    for rank in range(size):
        monkeypatch.setattr("crosstask.datamodules.base.replicas", lambda trainer, rank=rank: Replicas(size, rank))
        loaders.append(loader_of(data))
    assert len({len(loader) for loader in loaders}) == 1
    numbers = [sampled.number for loader in loaders for batch in loader for sampled in batch.examples]
    assert sorted(numbers) == list(range(len(data.evaluation_examples("validation"))))


def test_a_ranking_needs_a_mismatch(make_scorer_data: Callable[..., ScorerDataModule]) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.mismatches must be at least 1, got 0"):
        make_scorer_data(evaluation={"mismatches": 0})
