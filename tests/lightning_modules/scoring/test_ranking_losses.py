"""Ranking losses of the scorer: known values, and groups that stay together between the store and the loss."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from argument_groups import build
from recipes import store_of

from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.packing.best_fit import best_fit, in_order
from crosstask.datamodules.packing.document_groups import Groups, pack_together
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.packing.train_stream import TrainPlan, TrainStream
from crosstask.datamodules.schema import ScoredBatch
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.samples import Sample
from crosstask.lightning_modules.scoring.scorer_losses import (
    ScorerLoss,
    listwise_losses,
    pairwise_losses,
    scorer_losses,
)

# --- known values ---


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_two_responses_give_bradley_and_terrys_likelihood() -> None:
    """A right response at twice the odds of the wrong one wins with probability 2/3."""
    found = pairwise_losses(doubles(math.log(2), 0.0), doubles(1.0, 0.0), [2])
    torch.testing.assert_close(found, doubles(-math.log(2 / 3)))


def test_comparisons_weigh_what_the_wrong_choice_would_lose() -> None:
    """Odds 4 : 2 : 1 and labels 1, 1/4, 0: three comparisons with weights 3/4, 1 and 1/4, which sum to 2."""
    scores = doubles(math.log(4), math.log(2), 0.0).requires_grad_()
    found = pairwise_losses(scores, doubles(1.0, 0.25, 0.0), [3])
    expected = (0.75 * math.log(6 / 4) + 1.0 * math.log(5 / 4) + 0.25 * math.log(3 / 2)) / 2
    torch.testing.assert_close(found, doubles(expected))
    found.sum().backward()
    # The derivative by the winner is -(1 - its probability) of each comparison, and the loser's is the opposite.
    first, second, third = 0.75 / 3, 1.0 / 5, 0.25 / 3
    torch.testing.assert_close(scores.grad, doubles(-first - second, first - third, second + third) / 2)


def test_equal_scores_are_a_coin_and_equal_labels_teach_nothing() -> None:
    scores = doubles(3.0, 3.0, 3.0, 1.0, 2.0).requires_grad_()
    found = pairwise_losses(scores, doubles(0.2, 1.0, 0.2, 0.5, 0.5), [3, 2])
    torch.testing.assert_close(found, doubles(math.log(2), 0.0))
    found.sum().backward()
    assert scores.grad is not None
    assert scores.grad[3:].tolist() == [0.0, 0.0]


def test_the_listwise_loss_is_a_cross_entropy_of_two_softmaxes() -> None:
    """exp(label / temperature) is 3 : 1, so the targets are 3/4 and 1/4; the scores' odds are 1 : 1."""
    temperature = 1 / math.log(3)
    scores = doubles(0.0, 0.0).requires_grad_()
    found = listwise_losses(scores, doubles(1.0, 0.0), [2], label_temperature=temperature)
    torch.testing.assert_close(found, doubles(math.log(2)))
    found.sum().backward()
    torch.testing.assert_close(scores.grad, doubles(1 / 2 - 3 / 4, 1 / 2 - 1 / 4))
    best = doubles(math.log(3) + 5, 5.0).requires_grad_()  # the level of scores is free
    found = listwise_losses(best, doubles(1.0, 0.0), [2], label_temperature=temperature)
    torch.testing.assert_close(found, doubles(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4))
    found.sum().backward()
    torch.testing.assert_close(best.grad, doubles(0.0, 0.0), atol=1e-15, rtol=0)


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_groups_do_not_see_each_other(loss: ScorerLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = [4, 1, 7, 2]
    scores, labels = (torch.rand(14, dtype=torch.float64, generator=generator) for _ in range(2))
    together = scorer_losses(loss, scores, labels, groups, label_temperature=0.3)
    parts = zip(scores.split(groups), labels.split(groups), strict=True)
    alone = [scorer_losses(loss, s, y, [len(s)], label_temperature=0.3) for s, y in parts]
    torch.testing.assert_close(together, torch.cat(alone))
    apart = scorer_losses(loss, scores, labels, [4, 1, 3, 4, 2], label_temperature=0.3)
    assert not torch.isclose(apart.sum(), together.sum())  # a group that is cut is another loss


def test_a_batch_of_padding_has_no_loss() -> None:
    empty = torch.empty(0, requires_grad=True)
    for loss in get_args(ScorerLoss):
        total = scorer_losses(loss, empty, empty.detach(), [], label_temperature=1.0).sum()
        total.backward()
        assert total == 0.0
    assert empty.grad is not None
    assert empty.grad.shape == (0,)


def test_losses_and_groups_must_agree() -> None:
    values = torch.zeros(3)
    with pytest.raises(ValueError, match="3 of 3 pairs came without theirs: set the datamodule's grouped to true"):
        scorer_losses("pairwise", values, values, [], label_temperature=1.0)
    with pytest.raises(ValueError, match="set the datamodule's grouped to false"):
        scorer_losses("regression", values, values, [3], label_temperature=1.0)


# --- groups in rows ---


def test_a_draw_of_several_documents_stays_in_one_row() -> None:
    """Draws of 3 + 1, 2, 2 + 2 and 4 columns in rows of 6: in their order, 6, 4, and 4."""
    draws, sizes = np.array([0, 0, 1, 2, 2, 3]), np.array([3, 1, 2, 2, 2, 4])
    rows = pack_together(in_order, draws, sizes, 6, np.random.default_rng(0))
    assert [rows.row(r).tolist() for r in range(len(rows))] == [[0, 1, 2], [3, 4], [5]]
    rows = pack_together(best_fit, draws, sizes, 6, np.random.default_rng(1))
    assert sorted(rows.order.tolist()) == list(range(6))
    for r in range(len(rows)):
        row = rows.row(r)
        assert sizes[row].sum() <= 6
        assert np.count_nonzero(np.diff(draws[row], prepend=-1)) == len(set(draws[row]))  # side by side
    assert len({r for r in range(len(rows)) if {0, 1} & set(rows.row(r).tolist())}) == 1


def test_drawn_groups_become_their_documents() -> None:
    groups = Groups(np.array([0, 1, 3]), np.array([0, 0, 4]), np.array([2, 3, 1]))
    draws, tasks, documents = groups.members(np.array([1, 0, 1]), np.array([1, 0, 0]))
    assert draws.tolist() == [0, 1, 1, 2, 2, 2]
    assert tasks.tolist() == [1, 0, 0, 1, 1, 1]
    assert documents.tolist() == [4, 0, 1, 0, 1, 2]
    assert groups.counts() == [1, 2]


@pytest.fixture
def make_plan(toybench: Path, tmp_path: Path) -> Callable[..., TrainPlan]:
    """A training plan of the embedded benchmark whose first tasks have samples of a model, 0 to 4 for each example."""
    benchmark = NaturalInstructions(str(toybench))
    lines = [
        Sample(f"{example.targets[0]} {word}", "m", "nucleus", place).line(name, example.id)
        for name in benchmark.task_names("train")[:3]
        for number, example in enumerate(benchmark.examples(name))
        for place, word in enumerate(["red", "red dog", "cat", "one two"][: number % 5])
    ]
    (tmp_path / "samples.jsonl").write_text("".join(lines))

    def make(**arguments: Any) -> TrainPlan:
        settings: dict[str, Any] = {"rows": {"length": 512, "pair_length": 96, "per_step": 4, "grouped": True}}
        settings |= {
            "benchmark": benchmark,
            "tokenizer": str(toybench / "tokenizer"),
            "instances": {"train": 12, "validation": 0},
            "augmentation": {"samples": [str(tmp_path / "samples.jsonl")]},
            "cache": str(store_of(toybench)),
        }
        data = build(ScorerDataModule, settings, arguments)
        data.prepare_data()
        data.setup("fit")
        assert data.plan is not None
        return data.plan

    return make


def instructions(batch: ScoredBatch, joint: Sequence[int]) -> list[tuple[int, ...]]:
    """The tokens before each scored pair's response."""
    ends = dict(zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True))
    found = []
    for start in batch.scored.tolist():
        ids = batch.input_ids.flatten()[start : ends[start]].tolist()
        places = [place for place in range(len(ids)) if ids[place : place + len(joint)] == list(joint)]
        found.append(tuple(ids[: places[0]]))
    return found


@pytest.mark.parametrize(("size", "accumulation"), [(1, 1), (2, 1), (2, 2)])
def test_a_batch_holds_whole_groups_and_knows_the_steps(
    size: int, accumulation: int, make_plan: Callable[..., TrainPlan]
) -> None:
    plan = make_plan()
    kind: Any = plan.kind
    assert plan.groups is not None
    assert (plan.groups.cut, plan.groups.left_out) == (0, 0)
    known: dict[tuple[int, ...], int] = {}  # how many pairs each example of the store gave, by its instruction's tokens
    for task in plan.stored:
        assert task.groups is not None
        for place, group in enumerate(task.groups):
            ids, n_source, *_ = task.document(place)
            known[tuple(ids[: n_source - len(kind.frame.joint)].tolist())] = int((task.groups == group).sum())
    assert set(known.values()) >= {2, 3, 4, 5}
    streams = [iter(TrainStream(plan, Replicas(size, rank, accumulation), steps=6)) for rank in range(size)]
    for _ in range(6):
        batches: list[Any] = [next(stream) for stream in streams for _ in range(accumulation)]
        assert {batch.step_count for batch in batches} == {sum(len(batch.groups) for batch in batches)}
        for batch in batches:
            assert sum(batch.groups) == len(batch.scored)
            read, start = instructions(batch, kind.frame.joint), 0
            for count in batch.groups:
                own = read[start : start + count]
                assert len(set(own)) == 1
                assert known[own[0]] == count
                labels = batch.labels[start : start + count]
                assert labels.max() == 1.0 > labels.min()
                start += count


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_a_steps_loss_does_not_depend_on_who_takes_part(loss: ScorerLoss, make_plan: Callable[..., TrainPlan]) -> None:
    """Scores are a fixed function of a pair's tokens; parts of the step's mean sum to the same number and gradient."""
    plan = make_plan()
    weight = torch.linspace(-1, 1, 600, dtype=torch.float64)

    def step(size: int, accumulation: int) -> tuple[float, torch.Tensor]:
        slope = weight.clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for rank in range(size):
            stream = iter(TrainStream(plan, Replicas(size, rank, accumulation), steps=1))
            for _ in range(accumulation):
                batch = next(stream)
                assert isinstance(batch, ScoredBatch)
                flat, offsets = batch.input_ids.flatten(), batch.offsets.tolist()
                ends = dict(pairwise(offsets))
                scores = torch.stack([slope[flat[start : ends[start]]].sum() for start in batch.scored.tolist()])
                losses = scorer_losses(loss, scores, batch.labels.double(), batch.groups, label_temperature=0.1)
                total = total + losses.sum() / batch.step_count
        total.backward()
        assert slope.grad is not None
        return float(total.detach()), slope.grad

    (one, gradient), *others = (step(*parts) for parts in ((1, 1), (2, 1), (1, 4), (2, 2)))
    assert gradient.abs().max() > 1e-3
    for other, theirs in others:
        assert other == pytest.approx(one, rel=1e-12)
        torch.testing.assert_close(theirs, gradient, atol=1e-12, rtol=0)


def test_instructions_that_a_row_cannot_hold_are_cut_and_counted(make_plan: Callable[..., TrainPlan]) -> None:
    whole, cut = make_plan(), make_plan(rows={"length": 96})
    assert whole.groups is not None
    assert cut.groups is not None
    assert cut.groups.cut > 0
    assert cut.groups.sizes.sum() + cut.groups.left_out == whole.groups.sizes.sum()
    rows, _ = cut.step((0, 0))  # type: ignore[arg-type]
    assert all(len(cut.kind.collate([cut.documents(row)], 1).groups) == row.targets for row in rows)  # type: ignore[union-attr]


def test_single_pairs_have_no_groups(make_plan: Callable[..., TrainPlan]) -> None:
    plan = make_plan(rows={"grouped": False})
    batch = next(iter(TrainStream(plan, Replicas(), steps=1)))
    assert isinstance(batch, ScoredBatch)
    assert batch.groups == ()
    assert batch.step_count == len(batch.scored)
