"""Which examples language models answer for the scorer, and what they read."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules import NaturalInstructions, ScorerDataModule
from crosstask.datamodules.benchmarks import BigBench
from crosstask.datamodules.rendering.prompts import OptImlPrompt
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.scorer_settings import PairRows
from crosstask.datamodules.splits import Instances

TASK = "task001_toy_copy_animals"


def test_examples_are_those_of_the_data_module(toybench: Path, tmp_path: Path) -> None:
    counts: dict[str, Any] = {"train_examples": 4, "validation_examples": 2, "test_examples": 3, "seed": 5}
    benchmark = NaturalInstructions(str(toybench))
    data = ScorerDataModule(
        benchmark,
        str(toybench / "tokenizer"),
        rows=PairRows(length=256, pair_length=128),
        instances=Instances(train=4, validation=2, test=3),
        cache=str(tmp_path),
        seed=5,
    )
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    for stage in ("validation", "test"):
        prompts = list(SampledExamples(benchmark, OptImlPrompt(), [stage], **counts).prompts())
        sampled = {(prompt.task.name, prompt.example.id): prompt.source for prompt in prompts}
        ranked = {(each.task, each.id): each.source for each in data.evaluation_examples(stage)}
        assert ranked.items() <= sampled.items()
        assert len(ranked) > 5
    trained = Counter(each.task.name for each in SampledExamples(benchmark, parts=["train"], **counts).prompts())
    assert trained[TASK] == 4
    with pytest.raises(ValueError, match=r"task .absent. is in none of the splits"):
        list(SampledExamples(benchmark, tasks=["absent"]).prompts())


def test_of_a_row_with_several_prompts_the_data_modules_are_answered(tmp_path: Path, toybench: Path) -> None:
    """Templates make several prompts of a row, of which the data module trains as many as there are rows."""

    class Templates(NaturalInstructions):
        def examples(self, name: str) -> Any:
            for example in super().examples(name):
                for template in ("a", "b", "c"):
                    yield replace(example, id=f"{example.id}-{template}", template=template)

    counts: dict[str, Any] = {"train_examples": 5, "validation_examples": 2, "test_examples": 3, "seed": 5}
    benchmark = Templates(str(toybench))
    instances = Instances(train=5, validation=2, test=3)
    data = ScorerDataModule(benchmark, str(toybench / "tokenizer"), instances=instances, cache=str(tmp_path), seed=5)
    examples = list(benchmark.examples(TASK))
    dealt = data.preparation.split_instances(
        TASK,
        examples,
        trained=True,
        validated=not benchmark.task_names("validation"),
        tested=TASK in benchmark.task_names("test"),
    )
    assert len(dealt.train) == 5
    sampled = SampledExamples(benchmark, parts=["train"], tasks=[TASK], **counts).prompts()
    assert {each.example.id for each in sampled} == {examples[place].id for place in dealt.train}


def test_demonstrations_come_before_the_example(toybench: Path) -> None:
    """The same ones for all of a task, never the answer itself, and none that is held out."""
    counts: dict[str, Any] = {"tasks": [TASK], "train_examples": 6, "validation_examples": 0, "test_examples": 3}
    plain = OptImlPrompt(delimiters=("\nAnswer:",), instructions_share=0, task_share=0, input_share=0)
    chosen = SampledExamples(NaturalInstructions(str(toybench)), plain, ["train"], **counts)
    alone = {each.example.id: each for each in chosen.prompts()}
    shown = list(replace(chosen, shots=2).prompts())
    solved = {f"{each.example.input}\nAnswer: {each.example.targets[0]}" for each in alone.values()}
    beginnings = []
    for each in shown:
        definition, *demonstrations, sampled = each.source.split("\n\n")
        assert f"{definition}\n{sampled}" == alone[each.example.id].source
        assert len(demonstrations) == 2
        assert set(demonstrations) <= solved
        assert not any(demonstration.startswith(f"{each.example.input}\n") for demonstration in demonstrations)
        beginnings.append(tuple(demonstrations))
    assert len(set(beginnings)) <= 3  # those that are sampled themselves show another one
    with pytest.raises(ValueError, match=rf"task {TASK} has 5 demonstrations, and shots = 6: name a benchmark"):
        list(replace(chosen, shots=6).prompts())


def test_demonstrations_from_another_benchmark(toybench: Path, tmp_path: Path) -> None:
    (tmp_path / "copying").mkdir()
    record = {"examples": [{"input": f"Copy {number}.", "target": str(number)} for number in range(40)]}
    (tmp_path / "copying" / "task.json").write_text(json.dumps(record))
    validation, train = (BigBench(str(tmp_path), part) for part in ("validation", "train"))
    plain = OptImlPrompt(instructions_share=0, task_share=0, input_share=0)
    solved = {f"{example.input} {example.targets[0]}" for example in train.examples("copying")}
    shown = list(SampledExamples(validation, plain, ["test"], shots=2, demonstrations=train).prompts())
    assert len(shown) == len(list(validation.examples("copying")))
    for each in shown:
        *demonstrations, sampled = each.source.split("\n\n")
        assert sampled == each.example.input
        assert set(demonstrations) <= solved
    with pytest.raises(ValueError, match="task copying has 0 demonstrations"):
        list(SampledExamples(validation, parts=["test"], shots=1).prompts())
