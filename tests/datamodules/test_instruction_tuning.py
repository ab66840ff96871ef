"""The datamodule: usable without a trainer, prepared once, strict about what it is given."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from recipes import few_tasks
from small_runs import small_trainer

from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.mixture.task_subset import TaskSubset
from crosstask.datamodules.packing.best_fit import best_fit
from crosstask.datamodules.packing.packing_report import packing_report
from crosstask.datamodules.packing.train_stream import TrainPlan
from crosstask.datamodules.schema import CausalBatch, PromptBatch

Make = Callable[..., InstructionTuningDataModule]


def prepared(datamodule: InstructionTuningDataModule) -> InstructionTuningDataModule:
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


def test_it_works_without_a_trainer(make_datamodule: Make) -> None:
    datamodule = prepared(make_datamodule())
    batch = next(iter(datamodule.train_dataloader()))
    assert isinstance(batch, CausalBatch)
    assert batch.input_ids.shape == (8, 128)
    assert len(datamodule.train_dataloader()) == datamodule.report().steps  # an epoch
    kinds = [type(batch) for batch in datamodule.val_dataloader()]
    assert kinds == sorted(kinds, key=lambda kind: kind is PromptBatch)  # rows for the loss, then prompts
    assert len(kinds) == len(datamodule.val_dataloader())


def test_a_fit_without_validation_reads_no_validation_examples(make_datamodule: Make) -> None:
    for batches in (1, 0):
        datamodule = make_datamodule()
        datamodule.trainer = small_trainer(1, limit_val_batches=batches)
        datamodule.prepare_data()
        datamodule.setup("fit")
        if batches:
            assert datamodule.evaluation_examples("validation")
    with pytest.raises(ValueError, match=r'not read yet: call setup\("validate"\)'):
        datamodule.evaluation_examples("validation")
    datamodule.setup("validate")
    assert datamodule.evaluation_examples("validation")


def test_no_instance_is_both_trained_and_evaluated(make_datamodule: Make, toybench: Path) -> None:
    datamodule = prepared(make_datamodule(instances={"test": 100}))
    tested = {
        (example.task, example.id)
        for stage in ("validation", "test")
        for example in datamodule.evaluation_examples(stage)  # type: ignore[arg-type]
    }
    assert datamodule.plan is not None
    tokenizer = datamodule.preparation.tokenizer
    trained = 0
    for name, stored in zip(datamodule.plan.mixture.names, datamodule.plan.stored, strict=True):
        inputs = {e.input: (name, e.id) for e in datamodule.benchmark.examples(name)}
        held_out = {text for text, key in inputs.items() if key in tested}
        for place in range(len(stored)):
            document = stored.document(place)
            text = tokenizer.decode(document.input_ids[: document.n_source])
            # The input is a line of its own; another input may contain it as a part.
            lines = {
                line.removeprefix("Input: ").split(" Answer:")[0].split(" A:")[0].split(" Output:")[0]
                for line in text.split("\n")
            }
            assert not lines & held_out
            trained += 1
    assert trained > 500


def test_the_report_accounts_for_every_record(make_datamodule: Make, toybench: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toybench"
    shutil.copytree(toybench, folder)
    names = (folder / "splits/default/train_tasks.txt").read_text().split()
    path = folder / "tasks" / f"{names[-1]}.json"
    record = json.loads(path.read_text())
    record["Instances"][-1]["output"] = [" "]
    record["Instances"][-2]["input"] = ""
    path.write_text(json.dumps(record))
    benchmark = NaturalInstructions(str(folder))
    datamodule = make_datamodule(benchmark=benchmark, instances={"validation": 0, "test": 0})
    datamodule.prepare_data()
    datamodule.setup("fit")
    assert datamodule.val_dataloader() == []  # nothing is held out
    report = datamodule.report()
    total = sum(len(list(datamodule.benchmark.examples(name))) for name in names)
    assert report.skipped == {"empty input": 1, "empty target": 1}
    assert report.examples + sum(report.skipped.values()) == total
    assert report.draws == report.examples
    assert report.real_tokens <= report.columns
    assert report.steps == -(-report.rows // 8)


def test_a_task_is_tokenized_once_and_again_only_when_something_changed(
    make_datamodule: Make, toybench: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    benchmark = NaturalInstructions(str(toybench), few_tasks(toybench, tmp_path / "splits"))
    make = partial(make_datamodule, benchmark=benchmark, cache=str(store))

    def folders() -> set[str]:
        return {path.name for path in store.iterdir()}

    make().prepare_data()
    first = folders()
    stamps = {path: path.stat().st_mtime_ns for path in store.rglob("*.bin")}
    # Rows, mixture and packing are decided over lengths: none of them touches the store.
    make(rows={"length": 64, "per_step": 2, "packing": "in_order"}, mixture={"cap": 5}).prepare_data()
    assert folders() == first
    assert stamps == {path: path.stat().st_mtime_ns for path in store.rglob("*.bin")}
    for changed in (
        {"seed": 1},
        {"prompt": TkInstructPrompt()},
        {"instances": {"test": 4}},
        {"rows": {"target_length": 8}},
    ):
        make(**changed).prepare_data()
        assert len(folders() - first) >= 10, changed
        first = folders()


def test_the_report_of_a_long_epoch_plans_a_part_of_it(make_datamodule: Make) -> None:
    datamodule = prepared(make_datamodule())
    assert datamodule.plan is not None
    stored, mixture = datamodule.plan.stored, datamodule.plan.mixture
    short = replace(mixture, window=mixture.window / 8)
    plan = TrainPlan(stored, short, datamodule.row_kind, best_fit, rows_per_step=8)
    epoch = sum(plan.mixture.sizes)
    whole, part = packing_report(plan, epoch), packing_report(plan, epoch, most_windows=4)
    assert (whole.planned, part.planned) == (1.0, 0.5)
    assert whole.draws == epoch
    assert abs(part.draws - epoch) < 0.02 * epoch
    assert abs(part.real_tokens - whole.real_tokens) < 0.05 * whole.real_tokens
    assert ("planned of the epoch, counts scaled", "50.0%") in part.lines()
    assert len(whole.lines()) == len(part.lines()) - 1


@pytest.mark.parametrize(("packing", "within"), [("one_per_row", 0), ("best_fit", 0.02)])
def test_the_described_draws_are_those_of_the_rows(packing: str, within: float, make_datamodule: Make) -> None:
    """A row without other documents is one draw, however much of it is padding."""
    datamodule = prepared(make_datamodule(rows={"length": 128, "per_step": 8, "packing": packing}))
    report = datamodule.report()
    drawn = datamodule.describe(steps=4).nodes[0].draws
    assert drawn == pytest.approx(4 * 8 * report.draws / report.rows, rel=max(within, 1e-9))
    assert packing != "one_per_row" or drawn == pytest.approx(32)


def test_a_cap_is_what_an_epoch_draws(make_datamodule: Make) -> None:
    datamodule = prepared(make_datamodule(mixture={"cap": 5}))
    report = datamodule.report()
    assert report.draws == 5 * report.tasks


def test_a_subset_trains_fewer_tasks_and_moves_no_level(make_datamodule: Make) -> None:
    everything = prepared(make_datamodule())
    part = prepared(make_datamodule(mixture={"subset": TaskSubset(tasks=20)}))
    assert everything.plan is not None
    assert part.plan is not None
    assert set(part.plan.mixture.names) < set(everything.plan.mixture.names)
    assert len(part.plan.mixture.names) == 20
    for stage in ("validation", "test"):
        levels = [
            [(example.task, example.id, example.level) for example in data.evaluation_examples(stage)]  # type: ignore[arg-type]
            for data in (everything, part)
        ]
        assert levels[0] == levels[1]


def test_prompts_end_where_the_answer_begins(make_datamodule: Make) -> None:
    datamodule = prepared(make_datamodule())
    tokenizer = datamodule.preparation.tokenizer
    for batch in datamodule.test_dataloader():
        for ids, mask, example in zip(batch.input_ids, batch.attention_mask, batch.examples, strict=True):
            assert tokenizer.decode(ids[mask.bool()]) == example.source.rstrip(" ")


def test_a_prompt_that_is_too_long_keeps_its_end(make_datamodule: Make) -> None:
    datamodule = prepared(make_datamodule(rows={"length": 24}, evaluation={"max_new_tokens": 8}))
    tokenizer = datamodule.preparation.tokenizer
    cut = 0
    for batch in datamodule.test_dataloader():
        for ids, mask, example in zip(batch.input_ids, batch.attention_mask, batch.examples, strict=True):
            kept = tokenizer.decode(ids[mask.bool()])
            assert example.source.rstrip(" ").endswith(kept)
            cut += kept != example.source.rstrip(" ")
    assert cut > 0
    assert datamodule.report().truncated > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rows": {"length": 8}, "evaluation": {"max_new_tokens": 8}}, "leaves no room for a prompt"),
        ({"rows": {"per_step": 0}}, "rows.per_step must be at least 1"),
        ({"mixture": {"cap": 0}}, "cap must be a positive"),
        ({"instances": {"validation": 500, "held_out_share": None}}, "without instances beside 0 for test and 500"),
        ({"tokenizer": "/no/such/tokenizer"}, "no tokenizer could be loaded"),
    ],
)
def test_impossible_arguments_are_rejected(make_datamodule: Make, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prepared(make_datamodule(**arguments))


def test_the_stream_is_not_there_before_it_is_set_up(make_datamodule: Make) -> None:
    with pytest.raises(ValueError, match=r"call prepare_data\(\) and setup"):
        make_datamodule().train_dataloader()
