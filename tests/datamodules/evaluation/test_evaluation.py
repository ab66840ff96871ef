"""Evaluation batches: every prompt once over all replicas, and replicas in step."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.evaluation import tokenized_prompts
from crosstask.datamodules.evaluation.batch_loaders import ChainedLoader, PromptLoader, RowLoader
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.datamodules.packing.best_fit import best_fit
from crosstask.datamodules.packing.budget_batches import budget_batches
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.schema import CausalBatch, EvaluationExample, Task, TokenizedExample
from crosstask.datamodules.splits import choose_instances, generalization_level

SOURCES = [[number + 2] * length for number, length in enumerate(np.random.default_rng(0).integers(1, 30, 23))]
EXAMPLES = [
    EvaluationExample(number, "task", "category", "fully_held_out", str(number), "", ("x",))
    for number in range(len(SOURCES))
]


def loader(size: int = 1, rank: int = 0, *, pad_left: bool = True, budget: int = 120) -> PromptLoader:
    return PromptLoader(
        SOURCES,
        EXAMPLES,
        pad_token_id=0,
        pad_left=pad_left,
        max_new_tokens=4,
        budget=budget,
        replicas=Replicas(size, rank),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_every_prompt_is_evaluated_once_and_replicas_stay_in_step(size: int) -> None:
    loaders = [loader(size, rank) for rank in range(size)]
    asked = [example.number for one in loaders for batch in one for example in batch.examples]
    assert sorted(asked) == list(range(len(SOURCES)))
    assert len({len(one) for one in loaders}) == 1
    assert {len(list(one)) for one in loaders} == {len(loaders[0])}


def test_prompts_are_tokenized_in_parts_as_at_once(
    make_datamodule: Callable[..., InstructionTuningDataModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generated prompts and ranked options, whose tokens a large evaluation never holds as Python's lists."""
    data = make_datamodule(evaluation={"max_new_tokens": 4, "ranking": OptionRanking(labels=10)})
    data.setup("test")

    def batches() -> list[str]:
        return [
            repr([value.tolist() for value in batch if isinstance(value, Tensor)]) for batch in data.test_dataloader()
        ]

    at_once = batches()
    monkeypatch.setattr(tokenized_prompts, "TOKENIZED_AT_ONCE", 3)
    assert batches() == at_once
    assert {example.options == () for example in data.evaluation_examples("test")} == {True, False}


def test_rows_hold_their_prompts_with_padding_on_the_side_of_the_model() -> None:
    for pad_left in (True, False):
        for batch in loader(pad_left=pad_left):
            for row, mask, example in zip(batch.input_ids, batch.attention_mask, batch.examples, strict=True):
                assert row[mask.bool()].tolist() == SOURCES[example.number]
                assert bool(mask[-1 if pad_left else 0])


def test_the_longest_prompts_come_first_and_batches_keep_to_the_budget() -> None:
    widths = [batch.input_ids.shape[1] for batch in loader()]
    assert widths == sorted(widths, reverse=True)
    assert all(b.input_ids.shape[0] * (b.input_ids.shape[1] + 4) <= 120 for b in loader())
    assert budget_batches([500, 1], budget=10, padded=True) == [[0], [1]]  # what exceeds the budget stands alone


def test_documents_for_the_loss_are_dealt_once_and_replicas_stay_in_step() -> None:
    documents = [TokenizedExample(np.array([*source, 1]), len(source)) for source in SOURCES]
    made: list[list[CausalBatch]] = []
    for rank in range(3):
        rows = RowLoader(documents, kind=CausalRows(32, 0), packing=best_fit, budget=64, replicas=Replicas(3, rank))
        made.append(list(rows))  # type: ignore[arg-type]
        assert len(rows) == len(made[-1]) == len(ChainedLoader(rows, rows)) // 2
    assert {len(batches) for batches in made} == {len(made[0])}
    assert sum(batch.n_documents for batches in made for batch in batches) == len(SOURCES)
    targets = sum(int((batch.targets >= 0).sum()) for batches in made for batch in batches)
    assert targets == made[0][0].step_targets == len(SOURCES)


def test_instances_are_dealt_without_overlap() -> None:
    chosen = choose_instances("t", 50, trained=True, validation=5, test=10, limit=20)
    assert len(chosen.test) == 10
    assert chosen.test != list(range(10))  # of a file that may be sorted by label
    assert len(chosen.validation) == 5
    assert len(chosen.train) == 20
    assert len({*chosen.train, *chosen.validation, *chosen.test}) == 35
    assert chosen.train != sorted(chosen.train)
    assert chosen == choose_instances("t", 50, trained=True, validation=5, test=10, limit=20)
    assert chosen.train != choose_instances("t", 50, trained=True, validation=5, test=10, limit=20, seed=1).train


def test_a_task_that_is_only_tested_trains_nothing() -> None:
    assert choose_instances("t", 4, trained=False, validation=0, test=10).train == []
    assert choose_instances("t", 4, trained=False, validation=0, test=10).test == [0, 1, 2, 3]
    # File order: published scores are on the first ones.
    assert choose_instances("t", 40, trained=False, validation=0, test=3).test == [0, 1, 2]


def test_a_trained_task_is_tested_on_all_labels_of_a_sorted_file() -> None:
    labels = ["no"] * 300 + ["yes"] * 300
    chosen = choose_instances("t", 600, trained=True, validation=0, test=100)
    counts = Counter(labels[place] for place in chosen.test)
    assert counts == {"no": pytest.approx(50, abs=15), "yes": pytest.approx(50, abs=15)}


@pytest.mark.parametrize(
    ("name", "category", "level"),
    [
        ("copy", "Copying", "fully_supervised"),
        ("copy backwards", "Copying", "partially_supervised"),
        ("sort", "Sorting", "fully_held_out"),
    ],
)
def test_the_level_is_what_training_saw(name: str, category: str, level: str) -> None:
    assert generalization_level(Task("b", name, category), [Task("b", "copy", "Copying")]) == level
