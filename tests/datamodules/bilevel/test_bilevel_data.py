"""The data of two levels: how a batch reads, where its rows come from, and which settings are rejected."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from bilevel_runs import INNER_STEPS, TASK, Make, planned, texts, trainer

from crosstask.datamodules import NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.bilevel.exemplars import ExemplarPools, encode_exemplars, exemplar_texts
from crosstask.datamodules.bilevel.instance_rows import cut_source
from crosstask.datamodules.bilevel.level_instances import Instance
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.bilevel.presets import choices
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.rendering.tokenization import tokenize_pair
from crosstask.datamodules.schema import Example, RunData


def test_a_batch_reads_as_it_should(make_bilevel: Make) -> None:
    datamodule = planned(
        make_bilevel,
        prompt=TkInstructPrompt(positive_examples=1),
        levels={"inner_prompt": TkInstructPrompt(positive_examples=0, definition=False)},
        instructions={"exemplars": 3, "length": 40, "pair_length": 60},
    )
    plan, tokenizer = datamodule.plan, datamodule.preparation.tokenizer
    assert plan is not None
    assert [plan.batch(step, Replicas()).outer is not None for step in range(6)] == [False, False, True] * 2
    batch = plan.batch(INNER_STEPS - 1, Replicas())
    assert batch.outer is not None
    assert batch.curvature is not None
    assert len(batch.curvature.rows.input_ids) == len(batch.outer.input_ids) == 4
    for text in texts(datamodule, batch.outer):
        assert text.startswith("Definition: ")
        assert text.count("Positive Example") == 1
    definitions = {task.definition: task.name for task, _ in plan.outer}
    assert all(
        text.removeprefix("Definition: ").split("\n\n")[0] in definitions for text in texts(datamodule, batch.outer)
    )
    inner = batch.inner
    assert inner.inputs.exemplar_ids is not None
    for row, text in enumerate(texts(datamodule, inner.rows)):
        task = plan.inner[int(inner.inputs.tasks[row])]
        source, target = text.removesuffix("</s>").split("\nOutput: ")
        question = source.removeprefix("Now complete the following example -\nInput: ")
        (example,) = [e for e in task.examples if e.targets[0] == target and question.startswith(e.input)]
        z = tokenizer.decode(inner.inputs.pair_ids[row][inner.inputs.pair_mask[row].bool()])
        assert z == f"Input: {example.input} Output: {target}"  # the instance's own answer is in z (Eq. 4)
        solved = {"".join(exemplar_texts(e)) for e in task.examples if e != example}
        shown = {tokenizer.decode(ids) for ids in inner.inputs.exemplar_ids[row]}
        assert {text.replace("<pad>", "") for text in shown} <= solved
        assert len(shown) == 3
    assert datamodule.inner_tasks == [task.name for task, _ in plan.inner]


def test_no_instance_is_both_trained_and_evaluated(make_bilevel: Make) -> None:
    datamodule = planned(make_bilevel, instances={"validation": 10})
    datamodule.setup("test")
    plan = datamodule.plan
    assert plan is not None
    trained = {(e.task, e.id) for task in [*plan.inner, *plan.outer] for e in task.examples}
    for stage in ("validation", "test"):
        evaluated = {(e.task, e.id) for e in datamodule.evaluation_examples(stage)}  # type: ignore[arg-type]
        assert not trained & evaluated
    by_task = [e.task for e in datamodule.evaluation_examples("validation")]
    assert {by_task.count(task.name) for task, _ in [*plan.inner, *plan.outer]} == {10}  # of every training task


def test_batches_are_a_function_of_seed_and_step_and_replicas_share_them(make_bilevel: Make) -> None:
    plan = planned(make_bilevel, seq2seq=True).plan
    again = planned(make_bilevel, seq2seq=True).plan
    other = planned(make_bilevel, seq2seq=True, seed=1).plan
    assert plan is not None
    assert again is not None
    assert other is not None
    plan.batch(40, Replicas())  # another position first, in another epoch
    whole, halves = plan.batch(5, Replicas()), [again.batch(5, Replicas(2, rank)) for rank in range(2)]
    for name in ("inner", "curvature"):
        rows = getattr(whole, name).inputs.tasks
        parts = [getattr(half, name).inputs.tasks for half in halves]
        assert torch.equal(torch.stack(parts, dim=1).flatten(), rows)
    assert whole.outer is not None
    assert {half.outer.step_targets for half in halves if half.outer} == {whole.outer.step_targets}
    assert int((whole.outer.targets != -100).sum()) == whole.outer.step_targets
    assert other.batch(5, Replicas()).inner.inputs.tasks.tolist() != whole.inner.inputs.tasks.tolist() or (
        other.batch(5, Replicas()).outer.input_ids.tolist() != whole.outer.input_ids.tolist()  # type: ignore[union-attr]
    )
    size = sum(len(task.examples) for task, _ in [(t, 0) for t in plan.inner])
    seen = [plan._inner_order.at(position)[0] for position in range(2 * size)]
    assert sorted(seen[:size]) == sorted(seen[size:]) == list(range(size))  # an epoch has each instance once
    assert seen[:size] != seen[size:]


EXAMPLES = [Example("task", str(number), number, f"in {number}", (f"out {number}",)) for number in range(6)]


def test_exemplars_of_a_task_and_of_an_instance() -> None:
    shared = ExemplarPools(3, "task", exclude_self=False)
    assert len({tuple(e.id for e in shared.draw(EXAMPLES, EXAMPLES[own]) if e) for own in range(6)}) == 1
    drawn = [shared.draw(EXAMPLES, EXAMPLES[own]) for own in range(6)]
    assert any(EXAMPLES[own] in drawn[own] for own in range(6))  # its own answer: what exclude_self prevents
    for of in ("task", "instance"):
        pools = ExemplarPools(3, of)  # type: ignore[arg-type]
        drawn = [pools.draw(EXAMPLES, EXAMPLES[own]) for own in range(6)]
        assert all(EXAMPLES[own] not in drawn[own] for own in range(6))
        assert all(len({e.id for e in row if e}) == 3 for row in drawn)
        assert drawn == [pools.draw(EXAMPLES, EXAMPLES[own]) for own in range(6)]
    assert len({tuple(e.id for e in row if e) for row in drawn}) > 3  # each instance its own
    assert ExemplarPools(3, seed=1).draw(EXAMPLES, EXAMPLES[0]) != ExemplarPools(3).draw(EXAMPLES, EXAMPLES[0])


def test_a_task_with_few_instances_repeats_them_but_never_the_instance_itself() -> None:
    """6 instances and 8 exemplars: the released program's list repetition, without the instance's own answer."""
    whole = ExemplarPools(8, exclude_self=False)
    drawn = [example.id for example in whole.draw(EXAMPLES, EXAMPLES[0]) if example]
    assert drawn == [*drawn[:6], *drawn[:2]]
    assert sorted(drawn[:6]) == [example.id for example in EXAMPLES]
    pools = ExemplarPools(8)
    assert pools.repeats("task", EXAMPLES)
    assert not ExemplarPools(5).repeats("task", EXAMPLES)
    for own in range(6):
        others = pools.draw(EXAMPLES, EXAMPLES[own])
        assert EXAMPLES[own] not in others
        assert {e.id for e in others if e} == {e.id for e in EXAMPLES} - {str(own)}
        assert len(others) == 8
        assert [
            e for e, other in zip(whole.draw(EXAMPLES, EXAMPLES[own]), others, strict=True) if e == other
        ]  # places are kept


def test_repeated_exemplars_and_missing_demonstrations_are_reported(make_bilevel: Make) -> None:
    datamodule = planned(
        make_bilevel, prompt=TkInstructPrompt(positive_examples=9), instructions={"exemplars": 8, "length": 40}
    )
    report = dict(datamodule.report().lines())
    assert report["inner tasks that repeat exemplars"] == report["inner tasks"]
    assert report["outer tasks with fewer demonstrations"] == report["outer tasks"]
    report = dict(planned(make_bilevel, prompt=TkInstructPrompt(positive_examples=1)).report().lines())
    assert report["inner tasks that repeat exemplars"] == report["outer tasks with fewer demonstrations"] == "0"


def test_blank_exemplars_are_as_long_as_the_exemplar(tokenizer: Any) -> None:
    rows = [ExemplarPools(3, blanks=True).draw(EXAMPLES, EXAMPLES[own]) for own in range(2)]
    assert [[e is None for e in row] for row in rows] == [[True, True, False]] * 2
    ids, mask = encode_exemplars(tokenizer, rows, longest=40)
    assert (ids[:, :2] == tokenizer.pad_token_id).all()
    assert (mask[:, 0] == mask[:, 2]).all()
    assert mask.any()
    assert tokenizer.decode(ids[0, 2][mask[0, 2].bool()]) == "".join(exemplar_texts(rows[0][2]))  # type: ignore[arg-type]


def test_blank_exemplars_may_be_empty_fields(tokenizer: Any) -> None:
    """As in the released program, which appends a full stop to the space behind "Input: "."""
    rows = [ExemplarPools(3, blanks=True).draw(EXAMPLES, EXAMPLES[own]) for own in range(2)]
    ids, mask = encode_exemplars(tokenizer, rows, longest=40, blank_fields=True)
    texts = [[tokenizer.decode(ids[b, n][mask[b, n].bool()]) for n in range(3)] for b in range(2)]
    for row, exemplars in zip(texts, rows, strict=True):
        assert row[:2] == [" Positive Example -\nInput: .\n Output: .\n\n"] * 2
        assert row[2] == "".join(exemplar_texts(exemplars[2]))  # type: ignore[arg-type]


def test_a_long_source_gives_way_on_the_side_that_was_chosen(tokenizer: Any) -> None:
    prompt = TkInstructPrompt(positive_examples=0)
    (document,) = tokenize_pair(tokenizer, [prompt(TASK, EXAMPLES[0], random.Random(0))])
    for keep_end, kept in ((True, "\nOutput:"), (False, "Definition: ")):
        cut = cut_source(document, 12, keep_end=keep_end, pair=True)
        source = tokenizer.decode(cut.input_ids[: cut.n_source])
        assert cut.n_source == 12
        assert source.endswith("</s>")
        assert kept in source
    assert cut_source(document, 400, keep_end=True, pair=True) is document


def test_the_reserve_leaves_room_for_the_instruction(make_bilevel: Make) -> None:
    for seq2seq in (False, True):
        datamodule = planned(
            make_bilevel, seq2seq, rows={"length": 40}, instructions={"length": 8}, evaluation={"max_new_tokens": 4}
        )
        for step in range(20):
            batch = datamodule.plan.batch(step, Replicas())  # type: ignore[union-attr]
            assert batch.inner.rows.input_ids.shape[1] <= 32
    assert choices("released_code").reserve == 128


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"levels": {"inner_steps": 0}}, "inner_steps must be at least 1, got 0"),
        ({"levels": {"outer_rows": 0}}, "outer_rows must be at least 1, got 0"),
        ({"levels": {"reserve": 3}}, "3 columns are reserved for the instruction: expected at least its 4"),
        (
            {"instructions": {"exemplars": 3}, "instances": {"train": 1}},
            "has 1 training instance, and for one",
        ),
        ({"split": CategorySplit(90)}, "takes 90 of the"),
        ({"levels": {"inner_steps": 8}}, "set trainer.max_steps to at least inner_steps = 8"),
    ],
)
def test_impossible_settings_of_the_data(make_bilevel: Make, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer().fit(*make_bilevel(data=data, inner_steps=3))


def test_rows_are_a_multiple_of_the_replicas(make_bilevel: Make) -> None:
    plan = planned(make_bilevel, levels={"outer_rows": 5}).plan
    assert plan is not None
    with pytest.raises(ValueError, match="outer_rows = 5 cannot be divided among 2 replicas: choose a multiple of 2"):
        plan.stream(Replicas(size=2, rank=1), steps=4)


def test_an_outer_batch_that_repeats_instances_is_reported(
    make_bilevel: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        plan = planned(make_bilevel, levels={"outer_rows": 500}).plan
        assert plan is not None
        instances = sum(len(task.examples) for task in plan.outer)
        assert f"levels.outer_rows = 500 are more than the {instances} outer instances" in caplog.text
        caplog.clear()
        planned(make_bilevel)
    assert "are more than" not in caplog.text


def test_both_levels_are_described_without_a_trainer_and_with_one(make_bilevel: Make) -> None:
    """12 inner steps of 2 instances draw 24 inner ones; phi moves 4 times, each on 4 outer ones."""
    datamodule = planned(make_bilevel)
    assert isinstance(datamodule, RunData)
    report = dict(datamodule.report().lines())
    assert datamodule.plan is not None
    inner, outer = len(datamodule.plan.inner), len(datamodule.plan.outer)
    assert (report["inner tasks"], report["inner instances"]) == (f"{inner}", f"{8 * inner}")
    assert (report["outer tasks"], report["outer instances"]) == (f"{outer}", f"{8 * outer}")
    assert report["training instances skipped"] == "none"
    assert report["inner steps in an epoch"] == f"{4 * inner}"
    lines = datamodule.describe(12).lines(depth=1)
    assert lines[0].split() == ["level", "tasks", "instances", "draws", "epochs"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["inner", f"{inner}", f"{8 * inner}", "24"],
        ["outer", f"{outer}", f"{8 * outer}", "16"],
    ]
    assert len(datamodule.describe().lines()) > inner + outer
    assert datamodule.hparams["levels"]["inner_steps"] == INNER_STEPS


def test_skipped_instances_are_reported(make_bilevel: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read = NaturalInstructions.examples

    def examples(self: NaturalInstructions, name: str) -> Any:
        return (replace(e, skipped="unreadable") if e.index % 20 == 0 else e for e in read(self, name))

    monkeypatch.setattr(NaturalInstructions, "examples", examples)
    datamodule = planned(make_bilevel, instances={"train": 60})
    assert dict(datamodule.report().lines())["training instances skipped"].endswith(" unreadable")


@pytest.mark.parametrize("seq2seq", [False, True])
def test_what_is_too_long_is_counted(make_bilevel: Make, seq2seq: bool) -> None:
    length = 34
    datamodule = planned(make_bilevel, seq2seq, rows={"length": 90}, instructions={"exemplars": 2, "length": length})
    report, plan = dict(datamodule.report().lines()), datamodule.plan
    assert plan is not None
    rows = plan.rows

    def too_long(tasks: Any, room: int) -> int:
        prompts = [
            rows.prompt(tasks, Instance(n, i)) for n, (_, examples) in enumerate(tasks) for i in range(len(examples))
        ]
        made = rows.preparation.tokenize(prompts)
        if seq2seq:
            return sum(each.n_source > room or len(each.input_ids) - each.n_source > 24 for each in made)
        return sum(len(each.input_ids) > room for each in made)

    texts = ["".join(exemplar_texts(example)) for _, examples in rows.inner for example in examples]
    encoded = datamodule.preparation.tokenizer(texts, add_special_tokens=False).input_ids
    counts = {
        "inner instances cut to a row": too_long(rows.inner, 90 - length),
        "outer instances cut to a row": too_long(rows.outer, 90),
        f"inner instances cut to {length} tokens as exemplars": sum(len(ids) > length for ids in encoded),
    }
    assert {name: int(report[name]) for name in counts} == counts
    assert all(0 < counts[name] < len(texts) for name in counts if name.startswith("inner"))
