"""What is evaluated is neither trained nor shown with its answer, however often its file has it."""

import json
import logging
import random
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules import InstructionTuningDataModule, TkInstructPrompt
from crosstask.datamodules.benchmarks import FileTasks
from crosstask.datamodules.benchmarks.shared_sources import names_by_split
from crosstask.datamodules.bilevel.exemplars import ExemplarPools
from crosstask.datamodules.evaluation.few_shot import few_shot_preparation, reserved_from
from crosstask.datamodules.rendering.demonstrations import Demonstrations, choose_demonstrations
from crosstask.datamodules.schema import Demonstration, Example, Task
from crosstask.datamodules.splits import EVALUATED, choose_prompts, prompt_keys


def example(number: int, text: str, *targets: str, template: str | None = None) -> Example:
    return Example("t", f"e{number}{template or ''}", number, text, targets, template)


def dealt(examples: list[Example], **counts: int) -> Any:
    return choose_prompts("t", prompt_keys(examples), trained=True, **{"validation": 0, "test": 1, **counts})


def test_repetitions_of_a_tested_example_do_not_train() -> None:
    examples = [
        example(0, "Who wrote it?", "Ann", "Ann Lee"),
        example(1, "Who  wrote it?\n", "Ann Lee"),  # white space, and one of the references
        example(2, "Who wrote it?", "Bo"),  # another answer: what the prompts "Write a name." share
        example(3, "who wrote it?", "Ann"),  # another text, of a task about capitals
    ]
    splits = [dealt(examples, seed=seed) for seed in range(20)]
    dealt_as = {place: (sorted(split.train), split.repeated) for split in splits for (place,) in [split.test]}
    assert dealt_as == {0: ([2, 3], (1,)), 1: ([2, 3], (0,)), 2: ([0, 1, 3], ()), 3: ([0, 1, 2], ())}


def test_repetitions_are_followed_over_templates_and_validation() -> None:
    """Two rows with one prompt in common are one row: none of their prompts may train if the other one is evaluated."""
    rows = [
        [example(0, "a?", "1", template="x"), example(0, "A: a", "1", template="y")],
        [example(1, "b?", "2", template="x"), example(1, "A: a", "1", template="y")],
        *([example(n, f"{n % 3}!", "3", template="x"), example(n, f"{n}.", "4", template="y")] for n in range(2, 14)),
    ]
    prompts = [prompt for row in rows for prompt in row]

    def equal_rows(row: int) -> set[int]:
        return {0, 1} if row < 2 else {other for other in range(2, 14) if other % 3 == row % 3}

    for seed in range(20):
        split = dealt(prompts, validation=1, seed=seed)
        (tested,), (validated,) = ({prompts[place].index for place in part} for part in (split.test, split.validation))
        evaluated = equal_rows(tested) | equal_rows(validated)
        assert validated not in equal_rows(tested)
        assert {prompts[place].index for place in split.repeated} == evaluated - {tested, validated}
        assert not {prompts[place].index for place in split.train} & evaluated


def test_skipped_examples_equal_no_other() -> None:
    examples = [Example("t", str(n), n, "", (), skipped="no label") for n in range(4)]
    assert dealt(examples).repeated == ()


def test_an_example_is_not_its_own_demonstration_by_text() -> None:
    pool = [example(1, "2+2", "4"), example(2, "2+2 ", "4"), example(3, "3+3", "6"), example(4, "3+3", "6")]
    for seed in range(20):
        drawn = choose_demonstrations(pool, example(0, "2+2", "4"), 3, random.Random(seed))
        assert [one.input for one in drawn] == ["3+3"]  # and no other example twice


def test_published_examples_do_not_answer_the_instance() -> None:
    shown = [Demonstration("cat", "hat"), Demonstration("dog", "log"), Demonstration("sun", "bun")]
    task = Task("b", "t", "c", definition="Rhyme.", positive_examples=tuple(shown))
    form = TkInstructPrompt(positive_examples=2)
    prompts = [form(task, example(0, *texts), random.Random(0)).source for texts in (("cat ", "hat"), ("cat", "bat"))]
    assert ["hat" in prompt for prompt in prompts] == [False, True]
    assert ["bun" in prompt for prompt in prompts] == [True, False]  # the next one takes its place


@pytest.mark.parametrize("of", ["task", "instance"])
def test_exemplars_hold_no_repetition_of_the_instance(of: Any) -> None:
    examples = [example(n, f"{n // 2}", "x") for n in range(10)]  # every instance twice
    pools = ExemplarPools(8, of)
    assert not pools.repeats("t", examples)
    for place in range(10):
        drawn = pools.draw(examples, examples[place])
        assert len({one.index for one in drawn if one}) == 8
        assert examples[place].input not in {one.input for one in drawn if one}
    assert ExemplarPools(9, of).repeats("t", examples)  # 9 exemplars, and 2 to replace the instance and its repetition


@pytest.mark.parametrize(("evaluated", "held_back", "kept"), [(1, 5, 1), (0, 5, 0), (2, 5, 1), (7, 2, 5), (7, 0, 7)])
def test_a_small_task_is_evaluated_few_shot(evaluated: int, held_back: int, kept: int) -> None:
    """A slice by -0 would reserve the only instance of a task as its demonstration."""
    assert len(range(evaluated)[: reserved_from(evaluated, held_back)]) == kept


def write_tasks(folder: Path, **files: list[Any]) -> None:
    for name, records in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def record(number: int) -> dict[str, str]:
    return {"input": f"What is {number}?", "output": f"It is {number}."}


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """A task that is trained and tested, each of whose 40 records comes again; and a test task of one record."""
    records = [*map(record, range(40)), *map(record, range(40))]
    write_tasks(tmp_path, train__both=records, test__both=records, test__lone=[record(99)])
    return tmp_path


@pytest.mark.parametrize("shots", [0, 2])
def test_a_run_counts_them_and_trains_on_none(repeated: Path, shots: int, make_datamodule: Any) -> None:
    data: InstructionTuningDataModule = make_datamodule(
        benchmark=FileTasks(str(repeated)),
        instances={"validation": 2, "test": 5},
        demonstrations=Demonstrations(exponent=1.0) if shots else None,
    )
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    evaluated = {stage: data.evaluation_examples(stage) for stage in ("validation", "test")}
    answers = [one.references[0] for of_stage in evaluated.values() for one in of_stage if one.task == "both"]
    assert len(answers) == 7
    # Two copies of each evaluated record are in the file.
    assert data.report().skipped == {EVALUATED: 2 * len({*answers}) - 7}  # type: ignore[attr-defined]
    stored = data.plan.stored[0]  # type: ignore[union-attr]
    texts = [data.preparation.tokenizer.decode(stored.document(place).input_ids) for place in range(len(stored))]
    assert len(texts) == 80 - 2 * len({*answers})
    assert not [text for text in texts for answer in answers if answer in text]


def test_few_shot_prompts_do_not_show_evaluated_examples(repeated: Path, make_datamodule: Any) -> None:
    records = [*map(record, range(8)), *map(record, range(4))]
    write_tasks(repeated, test__held=records)
    data = make_datamodule(benchmark=FileTasks(str(repeated)), instances={"validation": 0, "test": 4})
    names = data.task_names()
    preparation = few_shot_preparation(data.preparation, shots=3, separator="\n\n", room=10_000, names=names)
    task = data.task("held")
    examples = list(data.benchmark.examples("held"))
    split = preparation.split_instances("held", examples, trained=False, validated=False, tested=True)
    assert (split.test, split.repeated) == ([0, 1, 2, 3], (8, 9, 10, 11))
    for place in split.test:
        source = preparation.few_shot_prompt(task, examples[place], 3).source
        assert source.count("It is") == 3
        assert not [number for number in range(4) if f"It is {number}." in source]
    assert preparation.repeated == {"held": 4}
    lone = list(data.benchmark.examples("lone"))
    assert preparation.split_instances("lone", lone, trained=False, validated=False, tested=True).test == [0]


def test_validation_and_test_both_keep_half_beside_demonstrations(repeated: Path, make_datamodule: Any) -> None:
    """Validation is of the last rows, which become demonstrations first: all of them did, and the task was gone."""
    write_tasks(repeated, test__held=list(map(record, range(10))))
    data = make_datamodule(benchmark=FileTasks(str(repeated)), instances={"validation": 4, "test": 6})
    preparation = few_shot_preparation(
        data.preparation, shots=5, separator="\n\n", room=10_000, names=data.task_names()
    )
    examples = list(data.benchmark.examples("held"))
    split = preparation.split_instances("held", examples, trained=False, validated=True, tested=True)
    assert (len(split.validation), split.test) == (2, [0, 1, 2])


@pytest.mark.parametrize(("test", "printed"), [(8, ["held"]), (5, [])])
def test_a_task_without_a_row_for_a_stage_is_named(
    test: int, printed: list[str], tmp_path: Path, make_datamodule: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that validates and tests, with no more rows than the test takes."""
    records, own = list(map(record, range(8))), list(map(record, range(10, 50)))
    write_tasks(tmp_path, train__own=own, validation__own=own, validation__held=records, test__held=records)
    data = make_datamodule(benchmark=FileTasks(str(tmp_path)), instances={"validation": 2, "test": test})
    data.prepare_data()
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        data.setup("validate")
    evaluated = {example.task for example in data.evaluation_examples("validation")}
    assert evaluated == {"own", "held"}.difference(printed)
    assert re.findall("1 validation task without a row beside .*demonstrations: (.*);", caplog.text) == printed


def test_a_published_demonstration_does_not_answer_the_example(repeated: Path, make_datamodule: Any) -> None:
    write_tasks(repeated, test__told=list(map(record, range(4))))
    shown = [record(1), record(90)]
    (repeated / "test/told.json").write_text(json.dumps({"category": "QA", "positive_examples": shown}))
    data = make_datamodule(benchmark=FileTasks(str(repeated)))
    preparation = few_shot_preparation(
        data.preparation, shots=2, separator="\n\n", room=10_000, names=data.task_names()
    )
    told = list(data.benchmark.examples("told"))
    sources = [preparation.few_shot_prompt(data.task("told"), one, 2).source for one in told]
    assert [("It is 1." in source, "It is 90." in source) for source in sources] == [
        (True, True),
        (False, True),
        (True, True),
        (True, True),
    ]
    assert preparation.counts_by_shots == {(2, 2): 3, (2, 1): 1}


@pytest.mark.parametrize("source", ["SQuAD v2", "squad-V2"])
def test_training_tasks_of_an_evaluated_source_are_excluded(source: str, tmp_path: Path, make_datamodule: Any) -> None:
    """The rule of a Bench, for a reader by itself: other spellings of a source are the same source."""
    records = list(map(record, range(30)))
    write_tasks(tmp_path, train__own=records, train__kin=records, test__held=records)
    for name, sources in (("train/own", ["imdb"]), ("train/kin", ["news", source]), ("test/held", ["SQUAD_V2"])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"category": "QA", "sources": sources}))
    names, shared = names_by_split(FileTasks(str(tmp_path)))
    assert names == {"train": ["own"], "validation": [], "test": ["held"]}
    assert shared == {"kin": "squad_v2 of held"}
    data = make_datamodule(benchmark=FileTasks(str(tmp_path)))
    assert data.task_names()["train"] == ["own"]
    assert (
        data.split_lines()[0]
        == "1 task does not train, since evaluated tasks share its sources: kin (squad_v2 of held)"
    )
    (tmp_path / "train/own.json").write_text(json.dumps({"category": "QA", "sources": [source]}))
    with pytest.raises(ValueError, match="all 2 training tasks were made from data of evaluated tasks: kin"):
        names_by_split(FileTasks(str(tmp_path)))
