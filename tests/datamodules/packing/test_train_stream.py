"""The training stream: a plan that every replica computes alike."""

from collections.abc import Callable, Iterator
from itertools import islice

import lightning as L
import numpy as np
import pytest
import torch

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.bilevel.bilevel_stream import BilevelBatch
from crosstask.datamodules.bilevel.exemplars import InstructionInputs
from crosstask.datamodules.bilevel.level_rows import InnerBatch
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.packing.train_stream import Position, TrainPlan, TrainStream, balanced_batches
from crosstask.datamodules.schema import IGNORE_INDEX, CausalBatch


@pytest.fixture
def plan(make_datamodule: Callable[..., InstructionTuningDataModule]) -> TrainPlan:
    datamodule = make_datamodule()
    datamodule.prepare_data()
    datamodule.setup("fit")
    assert datamodule.plan is not None
    return datamodule.plan


def rows_of(batches: list[CausalBatch]) -> list[tuple[int, ...]]:
    return sorted(tuple(row) for batch in batches for row in batch.input_ids.tolist())


def take(stream: TrainStream, batches: int) -> list[CausalBatch]:
    return list(islice(iter(stream), batches))  # type: ignore[arg-type]


@pytest.mark.parametrize("replicas", [(2, 1), (1, 4), (2, 2), (4, 2)])
def test_a_step_holds_the_same_rows_however_it_is_dealt(plan: TrainPlan, replicas: tuple[int, int]) -> None:
    size, accumulation = replicas
    alone = take(TrainStream(plan, Replicas(), steps=3), 3)
    parts = [
        take(TrainStream(plan, Replicas(size, rank, accumulation), steps=3), 3 * accumulation) for rank in range(size)
    ]
    for step in range(3):
        mine = [batch for part in parts for batch in part[step * accumulation : (step + 1) * accumulation]]
        assert rows_of(mine) == rows_of([alone[step]])
        assert {batch.step_targets for batch in mine} == {alone[step].step_targets}


def test_the_steps_targets_are_counted_without_looking(plan: TrainPlan) -> None:
    for batch in take(TrainStream(plan, Replicas(), steps=5), 5):
        assert batch.step_targets == int((batch.targets != IGNORE_INDEX).sum())


def test_no_row_is_lost_or_repeated_where_windows_meet(plan: TrainPlan) -> None:
    plan.rows_per_step = next(rows for rows in (5, 7, 11) if len(plan.window(0).rows) % rows)
    steps, position, seen = 0, Position(), []
    while position.window < 2:
        rows, position = plan.step(position)
        seen.extend(row.documents for row in rows)
        steps += 1
    expected = [plan._row(plan.window(w), r).documents for w in (0, 1) for r in range(len(plan.window(w).rows))]
    assert seen[: len(expected)] == expected


@pytest.mark.parametrize("resumed", [Replicas(), Replicas(2, 0, 1), Replicas(1, 0, 4)])
def test_a_stream_resumes_at_the_next_step_on_any_number_of_replicas(plan: TrainPlan, resumed: Replicas) -> None:
    undisturbed = take(TrainStream(plan, Replicas(1, 0, 2), steps=12), 24)
    first = TrainStream(plan, Replicas(1, 0, 2), steps=12)
    iterator = iter(first)
    for _ in range(2 * 7):
        next(iterator)
    state = first.state_dict()

    expected = rows_of(undisturbed[14:16])
    got = []
    for rank in range(resumed.size):
        second = TrainStream(plan, resumed._replace(rank=rank), steps=12)
        second.load_state_dict(state)
        got += take(second, resumed.accumulation)
    assert rows_of(got) == expected


def test_the_state_moves_on_with_complete_steps_only(plan: TrainPlan) -> None:
    stream = TrainStream(plan, Replicas(1, 0, 2), steps=4)
    iterator: Iterator = iter(stream)
    states = []
    for _ in range(4):
        next(iterator)
        states.append(stream.position)
    assert states[0] == Position(0, 0)  # after the first of two accumulated batches
    assert states[1] == states[2] == Position(0, 8)
    assert states[3] == Position(0, 16)


def test_batches_of_a_step_are_made_one_by_one(plan: TrainPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads its own two rows, so that the device never waits for those of a whole step."""
    read: list[object] = []
    documents = plan.documents
    monkeypatch.setattr(plan, "documents", lambda row: (read.append(row), documents(row))[1])
    batches = iter(TrainStream(plan, Replicas(1, 0, 4), steps=2))
    counts = []
    for _ in range(8):
        next(batches)
        counts.append(len(read))
    assert counts == [2, 4, 6, 8, 10, 12, 14, 16]


def test_rows_go_to_a_gpu_through_pinned_memory(
    make_datamodule: Callable[..., InstructionTuningDataModule], plan: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(tensor), tensor)[1])
    monkeypatch.setattr(L.LightningDataModule, "transfer_batch_to_device", lambda self, batch, *_: batch)
    [batch] = take(TrainStream(plan, Replicas(), steps=1), 1)
    data = make_datamodule()
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    assert not pinned
    data.transfer_batch_to_device(batch, torch.device("cuda"), 0)
    assert len(pinned) == 5
    inputs = InstructionInputs(*(torch.zeros(1, 2, dtype=torch.long),) * 3)
    both = BilevelBatch(InnerBatch(batch, inputs), outer=batch)
    moved = data.transfer_batch_to_device(both, torch.device("cuda"), 0)
    assert len(pinned) == 5 + 5 + 3 + 5
    assert type(moved) is BilevelBatch
    assert moved.inner.inputs.exemplar_ids is None


def test_the_stream_is_as_long_as_the_requested_steps(plan: TrainPlan) -> None:
    assert len(TrainStream(plan, Replicas(2, 0, 4), steps=10)) == 40


def test_rows_that_cannot_be_dealt_are_rejected(plan: TrainPlan) -> None:
    with pytest.raises(ValueError, match=r"rows\.per_step = 8 cannot be divided among 3 replicas x 1 .* multiple of 3"):
        TrainStream(plan, Replicas(3, 0, 1), steps=1)


def test_replicas_get_equal_work() -> None:
    costs = np.random.default_rng(0).lognormal(0, 1, 256).tolist()
    batches = balanced_batches(costs, 16)
    assert {len(batch) for batch in batches} == {16}
    assert sorted(row for batch in batches for row in batch) == list(range(256))
    sums = [sum(costs[row] for row in batch) for batch in batches]
    in_order = [sum(costs[i : i + 16]) for i in range(0, 256, 16)]
    assert np.ptp(sums) < np.ptp(in_order) / 5


def test_documents_keep_their_tasks_order_independent_of_rows(plan: TrainPlan) -> None:
    """Another row length is another plan over the same draws: nothing is tokenized again."""
    tasks, examples = plan.mixture.draws(0)
    window = plan.window(0)
    assert torch.equal(torch.tensor(window.tasks), torch.tensor(tasks))
    assert torch.equal(torch.tensor(window.examples), torch.tensor(examples))
