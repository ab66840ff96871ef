"""Pairs of instruction and response: which are made, and how they are labelled."""

from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from crosstask.datamodules.rouge import rouge_l
from crosstask.datamodules.schema import Example
from crosstask.datamodules.scoring.pairs import (
    References,
    UnlabelledExample,
    correctness_of_responses,
    pairs_as_released,
)
from crosstask.datamodules.scoring.response_sets import responses_to_rank
from crosstask.datamodules.scoring.samples import ModelSamples


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
