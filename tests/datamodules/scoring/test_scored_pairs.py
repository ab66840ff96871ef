"""Pairs of instruction and response: which are made, how they are labelled, and how they are stored."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from argument_groups import build
from recipes import store_of

from crosstask.datamodules import NaturalInstructions, OptImlPrompt
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.packing.train_stream import TrainStream
from crosstask.datamodules.rouge import rouge_l, unicode_rouge_l
from crosstask.datamodules.schema import Example, ScoredBatch
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.pair_preparation import UNREAD_REFERENCES, UNUSED_SAMPLES
from crosstask.datamodules.scoring.pairs import (
    References,
    ScoredPair,
    UnlabelledExample,
    correctness_of_responses,
    pairs_as_released,
)
from crosstask.datamodules.scoring.response_sets import ResponseLoader, responses_to_rank
from crosstask.datamodules.scoring.samples import ModelSamples
from crosstask.datamodules.scoring.scorer_settings import Augmentation, PairRows
from crosstask.datamodules.storage.store import Remark, open_task


def example(number: int, *targets: str, text: str = "", **fields: Any) -> Example:
    return Example("t", str(number), number, text or f"input {number}", targets, **fields)


def responses(examples: Sequence[Example], samples: Sequence[str] = (), seed: int = 0) -> Any:
    """Responses to the first of a task's examples."""
    return correctness_of_responses(examples[0], References(examples), samples, Random(seed), label=rouge_l)


def released(examples: Sequence[Example], samples: Sequence[str] = (), seed: int = 0) -> dict[str, float]:
    """The same as the released program, with each example's input as its instruction."""
    unlabelled = [
        UnlabelledExample(one, one.input, samples if place == 0 else (), Random(f"{seed} {place}"))
        for place, one in enumerate(examples)
    ]
    return dict(pairs_as_released(unlabelled, References(examples), label=rouge_l)[0])


def test_a_classification_example_has_every_wrong_option() -> None:
    colors = example(0, "blue", options=("red", "blue", "green"), answer=1)
    assert responses([colors, example(1, "red")]) == {"blue": 1.0, "red": 0.0, "green": 0.0}


def test_the_gold_option_is_right_also_where_the_reference_is_another_text() -> None:
    lettered = example(0, "B", options=("red", "blue"), answer=1)
    assert responses([lettered]) == {"B": 1.0, "blue": 1.0, "red": 0.0}


def test_an_option_that_is_right_for_another_example_of_the_same_input_is_right() -> None:
    """Two annotators chose a and b of three: neither is wrong for the input they share."""
    options = ("a", "b", "c")
    one, two = (example(n, gold, text="same", options=options, answer=n) for n, gold in enumerate("ab"))
    preparation: Any = SimpleNamespace(seed=0, label=rouge_l, samples=ModelSamples())
    found = responses_to_rank(one, References([one, two]), preparation, mismatches=1)
    assert found == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_a_generation_example_has_as_many_mismatches_as_references() -> None:
    examples = [example(0, "a", "b"), example(1, "c"), example(2, "d", "e")]
    found = responses(examples)
    assert {text for text, correctness in found.items() if correctness == 1.0} == {"a", "b"}
    wrong = [text for text, correctness in found.items() if correctness == 0.0]
    assert len(wrong) == 2
    assert set(wrong) <= {"c", "d", "e"}


YES_NO = [example(0, "yes"), *(example(n, "yes") for n in range(1, 50)), example(50, "no")]


def test_no_positive_without_negative() -> None:
    """98% of this task's references are the example's own; the released program draws one and drops it."""
    assert all(responses(YES_NO, seed=seed) == {"yes": 1.0, "no": 0.0} for seed in range(200))

    alone = sum(released(YES_NO, seed=seed) == {"yes": 1.0} for seed in range(200))
    assert 60 < alone < 140  # one of the two different references is its own


def test_a_mismatch_is_no_reference_of_the_same_input() -> None:
    twice = [example(0, "a", text="same"), example(1, "b", text=" same "), example(2, "c")]
    assert all(responses(twice, seed=seed) == {"a": 1.0, "c": 0.0} for seed in range(50))


def test_a_task_without_other_references_is_rejected_by_name() -> None:
    assert responses([example(0, "yes"), example(1, "yes")]) == "no mismatch in its task"
    assert responses([example(0, "yes", options=("yes",))]) == "no wrong option"


def test_mismatches_are_drawn_evenly() -> None:
    texts = References([example(n, text) for n, text in enumerate("abcdefgh")])
    drawn = [texts.draw(1, Random(seed), avoid={"a"})[0] for seed in range(1400)]
    counts = [drawn.count(text) for text in "bcdefgh"]
    assert sum(counts) == 1400
    assert min(counts) > 150
    assert sorted(texts.draw(99, Random(0), avoid={"a"})) == list("bcdefgh")


def test_samples_are_labelled_with_rouge_l() -> None:
    examples = [example(0, "the cat sat"), example(1, "dogs bark")]
    found = responses(examples, ["the cat", "a dog", "the cat sat"])
    assert found == {"the cat sat": 1.0, "dogs bark": 0.0, "the cat": pytest.approx(0.8), "a dog": 0.0}


def test_a_mismatch_is_no_sample_as_long_as_there_is_another() -> None:
    examples = [example(0, "the cat sat"), example(1, "the cat"), example(2, "fish")]
    assert all(responses(examples, ["the cat"], seed)["the cat"] == pytest.approx(0.8) for seed in range(50))
    assert responses(examples[:2], ["the cat"])["the cat"] == 0.0  # there is no other
    # The released program keeps the label that came first.
    assert 0.0 in [released(examples, ["the cat"], seed)["the cat"] for seed in range(50)]


def test_in_the_released_program_all_references_claim_their_texts_before_any_mismatch() -> None:
    """Instruction "same" has the references a and b in two examples: b is never wrong, and a stays twice."""
    examples = [example(n, text, text="same") for n, text in enumerate(["a", "b", "a"])]
    for seed in range(20):
        unlabelled = [UnlabelledExample(one, "same", ["b", "c"], Random(seed)) for one in examples]
        pairs = pairs_as_released(unlabelled, References(examples), label=lambda response, right: 0.25)
        assert pairs == [[("a", 1.0), ("c", 0.25)], [("b", 1.0)], [("a", 1.0)]]


def test_in_the_released_program_all_mismatches_claim_their_texts_before_any_sample() -> None:
    one, two, other = example(0, "a", text="same"), example(1, "b", "c", text="same"), example(2, "d")

    def labels(seed: int) -> list[float | None]:
        """The labels of ("same", "d"), which both examples sampled, and some drew as a mismatch."""
        unlabelled = [UnlabelledExample(e, e.input, ["d"], Random(f"{seed} {e.id}")) for e in (one, two, other)]
        pairs = pairs_as_released(unlabelled, References([one, two, other]), label=lambda response, right: 0.5)
        return [dict(of_one).get("d") for of_one in pairs[:2]]

    found = [labels(seed) for seed in range(40)]
    assert [None, 0.0] in found  # the second example's mismatch, not the first one's sample
    assert {tuple(of_seed) for of_seed in found} == {(None, 0.0), (0.0, None), (0.5, None)}


def test_the_label_is_an_argument_and_its_range_is_checked() -> None:
    pair, references = example(0, "a"), References([example(0, "a"), example(1, "b")])
    found = correctness_of_responses(pair, references, ["c"], Random(0), label=lambda response, right: 0.25)
    assert found == {"a": 1.0, "b": 0.0, "c": 0.25}
    with pytest.raises(ValueError, match=r"correctness must lie in \[0, 1\], got 80 from <lambda> for 'c'"):
        correctness_of_responses(pair, references, ["c"], Random(0), label=lambda response, right: 80)


def written(folder: Path, *lines: object) -> str:
    path = folder / "samples.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_samples_are_read_by_task_and_example(tmp_path: Path) -> None:
    lines = [{"task": "t", "id": "1", "response": text, "generator": "flan"} for text in ("a", " b ")]
    samples = ModelSamples([written(tmp_path, *lines)])
    assert samples.of("t") == {"1": ["a", "b"]}
    assert samples.of("u") == {}
    assert samples.fingerprint("u") == ModelSamples().fingerprint("u") != samples.fingerprint("t")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json\n", r"samples.jsonl:1: not valid JSON"),
        ({"task": "t", "id": 7, "response": "a"}, r'samples.jsonl:1: expected .* "id" .* got \'\{"task"'),
        ({"task": "t", "response": "a"}, r"samples.jsonl:1: expected an object with the texts"),
    ],
)
def test_a_malformed_sample_is_named_by_file_and_line(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSamples([written(tmp_path, line)]).of("t")


def test_samples_of_unknown_tasks_and_examples_are_rejected(tmp_path: Path) -> None:
    samples = ModelSamples([written(tmp_path, {"task": "t", "id": "1", "response": "a"})])
    with pytest.raises(ValueError, match=r"samples of 1 tasks that no split lists, e.g. 't'"):
        samples.require_tasks(["u"])
    with pytest.raises(ValueError, match=r"samples of 1 examples that t does not have, e.g. '1'"):
        samples.require_examples("t", ["0"])
    with pytest.raises(ValueError, match=r"no file or folder .*absent.jsonl"):
        ModelSamples([str(tmp_path / "absent.jsonl")]).of("t")


# --- in the store and in the stream ---


@pytest.fixture
def make_scorer_data(toybench: Path, tmp_path: Path) -> Callable[..., ScorerDataModule]:
    def make(**arguments: Any) -> ScorerDataModule:
        defaults = {
            "benchmark": NaturalInstructions(str(toybench)),
            "tokenizer": str(toybench / "tokenizer"),
            "rows": {"length": 256, "pair_length": 96, "per_step": 4},
            "instances": {"validation": 2, "test": 3},
            "cache": str(store_of(toybench)),
        }
        return build(ScorerDataModule, defaults, arguments)

    return make


def prepared(data: ScorerDataModule) -> ScorerDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def loader_of(data: ScorerDataModule) -> ResponseLoader:
    loader = data.val_dataloader()
    assert isinstance(loader, ResponseLoader)
    return loader


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
