"""Pairs of a task as they are prepared and stored."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_samples import written

from crosstask.datamodules import NaturalInstructions, OptImlPrompt
from crosstask.datamodules.rouge import unicode_rouge_l
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.pair_preparation import UNREAD_REFERENCES, UNUSED_SAMPLES
from crosstask.datamodules.scoring.pairs import (
    ScoredPair,
)
from crosstask.datamodules.scoring.scorer_settings import Augmentation, PairRows
from crosstask.datamodules.storage.store import Remark, open_task


def some_pairs(data: ScorerDataModule, name: str) -> list[ScoredPair]:
    benchmark = data.benchmark
    found = data.preparation.pairs(benchmark.task(name), list(benchmark.examples(name))[:40])
    return [pair for pair in found if not isinstance(pair, str)]


def test_every_instruction_of_a_task_has_a_right_and_a_wrong_response(
    make_scorer_data: Callable[..., ScorerDataModule],
) -> None:
    data = make_scorer_data()
    for name in data.benchmark.task_names("train")[::9]:
        pairs = some_pairs(data, name)
        assert len({pair[:2] for pair in pairs}) == len(pairs) > 0
        of: dict[str, set[float]] = {}
        for pair in pairs:
            of.setdefault(pair.instruction, set()).add(pair.correctness)
        assert all(labels == {0.0, 1.0} for labels in of.values())


def test_a_pair_occurs_once_also_where_an_example_comes_twice(
    make_scorer_data: Callable[..., ScorerDataModule],
) -> None:
    one_wording = OptImlPrompt(("\nA:",), instructions_share=0.0, task_share=0.0, input_share=0.0)
    data = make_scorer_data(prompt=one_wording)
    task = data.benchmark.task(data.benchmark.task_names("train")[0])
    first, second, *_ = data.benchmark.examples(task.name)
    found = list(data.preparation.pairs(task, [first, replace(first, id="again"), second]))
    assert [(pair.response, pair.correctness) for pair in found if isinstance(pair, ScoredPair)] == [
        (first.targets[0], 1.0),
        (second.targets[0], 0.0),
        (second.targets[0], 1.0),
        (first.targets[0], 0.0),
    ]


def test_pairs_are_stored_with_their_labels(make_scorer_data: Callable[..., ScorerDataModule]) -> None:
    data = make_scorer_data(instances={"train": 5})
    name = data.benchmark.task_names("train")[0]
    data.preparation.write(name, validated=False, tested=False)
    stored = open_task(data.preparation.task_folder(name, validated=False, tested=False))
    assert len(stored) == 10  # each of 5 examples gives a right and a wrong response
    assert stored.labels is not None
    assert stored.labels.tolist() == [1.0, 0.0] * 5
    tokenizer, frame = data.preparation.tokenizer, data.preparation.frame
    ids, n_source, label, *_ = stored.document(1)
    assert label == 0.0
    assert tuple(ids[:1]) == frame.head
    assert tuple(ids[n_source - 2 : n_source]) == frame.joint
    references = {target for found in data.benchmark.examples(name) for target in found.targets}
    assert tokenizer.decode(ids[n_source:-1]) in references


def test_examples_without_a_mismatch_train_as_in_the_released_program(
    make_scorer_data: Callable[..., ScorerDataModule],
) -> None:
    """All references of the task are equal; by default its examples are skipped, with the way out."""
    data, faithful = make_scorer_data(), make_scorer_data(augmentation={"faithful": True})
    task = data.benchmark.task(data.benchmark.task_names("train")[0])
    examples = [replace(one, targets=("yes",)) for one in data.benchmark.examples(task.name)][:2]
    reason = "no mismatch in its task, which `faithful: true` does without"
    assert list(data.preparation.pairs(task, examples)) == [reason] * 2
    pairs = list(faithful.preparation.pairs(task, examples))
    assert [(pair.response, pair.correctness) for pair in pairs] == [("yes", 1.0)] * 2


def test_what_decides_the_pairs_decides_their_folder(
    make_scorer_data: Callable[..., ScorerDataModule], tmp_path: Path
) -> None:
    data = make_scorer_data()
    name = data.benchmark.task_names("train")[0]
    of_task = {"task": name, "id": next(data.benchmark.examples(name)).id, "response": "x", "generator": "g"}
    samples = [written(tmp_path, of_task)]

    def folder(**arguments: Any) -> Path:
        return make_scorer_data(**arguments).preparation.task_folder(name, validated=True, tested=False)

    folders = [
        folder(),
        folder(augmentation={"faithful": True}),
        folder(augmentation={"samples": samples}),
        folder(seed=1),
    ]
    folders.append(folder(augmentation={"samples": samples, "label": one_half}))
    assert len(set(folders)) == 5
    # There is nothing to label, and rows do not change pairs.
    assert folder() == folder(augmentation={"label": one_half}, rows={"per_step": 8})
    with pytest.raises(ValueError, match="must be a module's function"):
        folder(augmentation={"samples": samples, "label": lambda response, references: 0.5})


def one_half(response: str, references: Sequence[str]) -> float:
    return 0.5


def test_augmentation_is_for_examples_without_options(tmp_path: Path, toybench: Path) -> None:
    """A task of both kinds: samples of the options are counted, and trained on when that is set."""

    class Mixed(NaturalInstructions):
        def examples(self, name: str) -> Any:
            for number, one in enumerate(super().examples(name)):
                wrong = {"options": (*one.targets[:1], "wrong"), "answer": 0} if number % 2 else {}
                yield replace(one, **wrong)

    name = "task001_toy_copy_animals"
    texts = [{"task": name, "id": one.id, "response": "a sample"} for one in Mixed(str(toybench)).examples(name)]
    samples = [written(tmp_path, *texts)]

    def labels(**augmentation: Any) -> tuple[dict[bool, set[float]], dict[str, int]]:
        data = ScorerDataModule(
            Mixed(str(toybench)),
            str(toybench / "tokenizer"),
            rows=PairRows(length=256, pair_length=96),
            augmentation=Augmentation(samples=samples, **augmentation),
            cache=str(tmp_path / "store"),
        )
        task, examples = data.benchmark.task(name), list(data.benchmark.examples(name))[:10]
        items = list(data.preparation.pairs(task, examples))
        pairs = [item for item in items if isinstance(item, ScoredPair) and item.response == "a sample"]
        remarks = Counter(item for item in items if isinstance(item, Remark))
        return {bool(examples[pair.example].options): {pair.correctness} for pair in pairs}, remarks

    assert labels() == ({False: {0.0}}, {UNUSED_SAMPLES: 5})
    assert labels(option_samples=True, label=one_half) == ({False: {0.5}, True: {0.5}}, {})


def test_samples_to_references_that_rouge_l_cannot_read_are_counted(tmp_path: Path, toybench: Path) -> None:
    class Hindi(NaturalInstructions):
        def examples(self, name: str) -> Any:
            for one in super().examples(name):
                yield replace(one, targets=("नमस्ते दुनिया",) if one.index else ("hello",))

    name = "task001_toy_copy_animals"
    examples = list(Hindi(str(toybench)).examples(name))[:4]
    samples = [written(tmp_path, *({"task": name, "id": one.id, "response": "नमस्ते"} for one in examples))]

    def found(**label: Any) -> tuple[set[float], int]:
        data = ScorerDataModule(
            Hindi(str(toybench)),
            str(toybench / "tokenizer"),
            rows=PairRows(length=256, pair_length=96),
            augmentation=Augmentation(samples=samples, **label),
        )
        items = list(data.preparation.pairs(data.benchmark.task(name), examples))
        pairs = [item for item in items if isinstance(item, ScoredPair) and item.response == "नमस्ते"]
        return {pair.correctness for pair in pairs[1:]}, items.count(UNREAD_REFERENCES)

    assert found() == ({0.0}, 3)
    assert found(label=unicode_rouge_l) == ({2 / 3}, 0)


def test_faithful_pairs_are_cut_as_in_the_released_program(make_scorer_data: Callable[..., ScorerDataModule]) -> None:
    released = {"faithful": True}
    assert make_scorer_data().row_kind.truncation == "instruction"
    assert make_scorer_data(augmentation=released).row_kind.truncation == "longest_first"
    kept = make_scorer_data(augmentation=released, rows={"truncation": "instruction"})
    assert kept.row_kind.truncation == "instruction"
