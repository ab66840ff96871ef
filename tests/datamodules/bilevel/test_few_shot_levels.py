"""Few-shot prompts of both levels: token for token those of training with demonstrations and of few-shot evaluation."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bilevel_runs import INNER_STEPS, Make, planned, texts
from tokenizer_kinds import KINDS

from crosstask.datamodules.bilevel.bilevel_settings import InstructionTexts
from crosstask.datamodules.bilevel.level_instances import Instance
from crosstask.datamodules.bilevel.prompt_pieces import encode_pieces, prompt_pieces
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.rendering.demonstrations import with_demonstrations
from crosstask.datamodules.rendering.prompts import OptImlPrompt, TkInstructPrompt, rendering_rng
from crosstask.datamodules.schema import Example, Task
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.storage.preparation import Preparation

FEW_SHOT: dict[str, Any] = {
    "prompt": OptImlPrompt(),
    "rows": {"length": 240},
    "instructions": {"exemplars": 4, "demonstrations": 2, "length": 60, "pair_length": 60},
    "evaluation": {"shots": 2, "shot_separator": "\n\n"},
}
NAMES = "abcde"
WORDS = [Example("t", f"{i}", i, f"word {name} is {i}, or", (f"{name}.",)) for i, name in enumerate(NAMES)]


def preparation(kind: str, *, pair: bool) -> Preparation:
    return Preparation(None, OptImlPrompt(), KINDS[kind](), pair, None, Instances(), 0, Path())  # type: ignore[arg-type]


@pytest.mark.parametrize("definition", ["say the word. then the number: ", ""])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("kind", ["byte_level", "superwords", "t5", "bert"])
def test_any_exemplars_in_any_order_read_as_the_prompt_with_them(kind: str, pair: bool, definition: str) -> None:
    how, task, form = preparation(kind, pair=pair), Task("b", "t", "c", definition), OptImlPrompt()
    own, *others = WORDS
    for number in range(4):  # other delimiters and field names
        generator = partial(rendering_rng, 0, "t", f"x{number}")
        pieces = encode_pieces(how, prompt_pieces(form, task, own, others, generator, "\n\n\n"))
        for chosen in ([0], [1], [2, 3], [3, 1, 0]):
            shown = [others[place] for place in chosen]
            [whole] = how.tokenize([with_demonstrations(form, task, own, shown, generator, "\n\n\n")])
            before = [*pieces.head, *(token for place in chosen for token in pieces.exemplars[place])]
            assert [*before, *pieces.document.input_ids] == whole.input_ids.tolist()
            assert len(before) + pieces.document.n_source == whole.n_source


def test_a_tokenizer_that_loses_the_separator_is_rejected() -> None:
    how = preparation("llama", pair=False)  # small: it has no line breaks, and counts no characters behind them
    pieces = prompt_pieces(OptImlPrompt(), Task("b", "t", "c", "say"), WORDS[0], WORDS[1:], random.Random, "\n\n\n")
    with pytest.raises(ValueError, match=r"set another instructions\.separator, or instructions\.demonstrations to 0"):
        encode_pieces(how, pieces)


@pytest.mark.parametrize("seq2seq", [False, True])
def test_inner_instances_choose_among_others_and_outer_ones_read_as_in_evaluation(
    make_bilevel: Make, seq2seq: bool
) -> None:
    datamodule = planned(make_bilevel, seq2seq, **FEW_SHOT)
    datamodule.setup("validate")
    plan, tokenizer = datamodule.plan, datamodule.preparation.tokenizer
    assert plan is not None
    batch = plan.batch(INNER_STEPS - 1, Replicas())
    inputs = batch.inner.inputs
    assert inputs.exemplar_ids is not None
    assert inputs.places is not None
    assert inputs.places.tolist() == [2, 2]
    for (name, number), row in zip(plan.examples(INNER_STEPS - 1), range(2), strict=False):
        task, examples = next(one for one in plan.inner if one.task.name == name)
        [example] = [one for one in examples if one.id == number]
        shown = tokenizer.decode(inputs.exemplar_ids[row].flatten())
        assert not any(f"{example.input}{mark}" in shown for mark in (" ", "\n"))
        head = tokenizer.decode(inputs.head_ids[row][inputs.head_mask[row].bool()])  # type: ignore[index]
        assert task.definition.strip().rstrip(".") in head
        assert texts(datamodule, batch.inner.rows)[row].startswith((example.input, f"Input: {example.input}"))
    validated = {one.task: one for one in datamodule.evaluation_examples("validation")}
    for place, (task, examples) in enumerate(plan.outer):
        demonstrations = parts_of(validated[task.name].source)[1:3]
        answers = {answer(part) for part in demonstrations}
        same = 0
        for index, example in enumerate(examples):
            prompt = plan.rows.prompt(plan.outer, Instance(place, index))
            parts = parts_of(prompt.source)
            assert len(parts) == 4  # the definition, two demonstrations and the input
            assert all(not part.removeprefix("Input: ").startswith(f"{example.input}\n") for part in parts[1:3])
            same += {answer(part) for part in parts[1:3]} == answers
        assert same >= len(examples) - 2  # all but the demonstrations themselves


def parts_of(source: str) -> list[str]:
    return source.split("\n\n")


def answer(part: str) -> str:
    """The answer of a demonstration, behind whichever delimiter."""
    return part.split("nswer:")[-1].split("A:")[-1].split("utput:")[-1].strip()


def test_what_cannot_be_an_exemplar_is_counted_and_missing(make_bilevel: Make) -> None:
    report = dict(planned(make_bilevel, **FEW_SHOT).report().lines())
    assert report["inner tasks with fewer exemplars than demonstrations"] == "0"
    texts_of = {**FEW_SHOT["instructions"], "length": 16}
    datamodule = planned(make_bilevel, **{**FEW_SHOT, "instructions": texts_of})
    report = dict(datamodule.report().lines())
    assert report["inner instances that are no exemplars"].endswith(" too long")
    assert report["inner tasks with fewer exemplars than demonstrations"] != "0"
    assert datamodule.plan is not None
    for step in range(4):
        inputs = datamodule.plan.batch(step, Replicas()).inner.inputs
        assert inputs.exemplar_mask is not None
        assert inputs.exemplar_mask.sum(dim=2).max() <= 20  # an instance's own delimiter may be a little longer


def test_demonstrations_that_do_not_fit_are_dropped_before_the_text(make_bilevel: Make) -> None:
    narrow = {"rows": {"length": 64}, "instructions": {**FEW_SHOT["instructions"], "length": 28}}
    datamodule = planned(make_bilevel, **{**FEW_SHOT, **narrow, "evaluation": {"max_new_tokens": 4}})
    assert datamodule.plan is not None
    places = set()
    for step in range(12):
        batch = datamodule.plan.batch(step, Replicas())
        inputs, rows = batch.inner.inputs, batch.inner.rows
        assert inputs.exemplar_mask is not None
        longest = inputs.exemplar_mask.sum(dim=2).amax(dim=1)
        text = rows.input_ids.ne(datamodule.preparation.tokenizer.pad_token_id).sum(dim=1)
        used = inputs.head_mask.sum(dim=1) + inputs.places * longest + text  # type: ignore[union-attr, operator]
        assert used.max() <= 64
        places |= set(inputs.places.tolist())  # type: ignore[union-attr]
    assert len(places) > 1


def test_settings_that_contradict_demonstrations(make_bilevel: Make) -> None:
    for settings, message in (
        ({"exemplars": 1, "demonstrations": 2}, "are chosen among instructions.exemplars"),
        ({"exemplars": 4, "demonstrations": 2, "blank": True}, "are for one exemplar before the text"),
        ({"exemplars": 4, "demonstrations": -1}, "are chosen among"),
    ):
        with pytest.raises(ValueError, match=message):
            InstructionTexts(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="TkInstructPrompt has no place for demonstrations of other examples"):
        planned(make_bilevel, **{**FEW_SHOT, "prompt": TkInstructPrompt()})
