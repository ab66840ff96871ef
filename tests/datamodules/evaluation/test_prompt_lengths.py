"""Few-shot prompts whose lengths are added have the demonstrations of prompts that are tokenized as a whole."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizer_kinds
from lossy_tokenizers import wordpiece
from transformers import PreTrainedTokenizerBase

from crosstask.datamodules.benchmarks import FileTasks
from crosstask.datamodules.evaluation import prompt_lengths
from crosstask.datamodules.evaluation.few_shot import FewShotPreparation, few_shot_preparation
from crosstask.datamodules.evaluation.prompt_lengths import most_fitting
from crosstask.datamodules.schema import Example, Prompt
from crosstask.datamodules.storage.preparation import Preparation

KINDS = {**tokenizer_kinds.KINDS, "wordpiece": wordpiece}
WORDS = ["the", "cat", "yes", "</s>", "answer :", "<unk>", "9", "\n", "日本語", "a" * 90, "the cat of the house"]
SHOTS = 5

Make = Callable[..., FewShotPreparation]


@pytest.fixture
def prepared(tmp_path: Path, make_datamodule: Any) -> Make:
    """Builds the preparation of a test task of 40 questions, of which 8 are evaluated."""
    rng, path = random.Random(0), tmp_path / "test/held.jsonl"

    def text(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    path.parent.mkdir()
    records = [{"input": f"{text(12)} {n}", "output": f"{n} {text(3)}"} for n in range(40)]
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    data = make_datamodule(benchmark=FileTasks(str(tmp_path)), instances={"validation": 0, "test": 8})

    def prepared(tokenizer: PreTrainedTokenizerBase, separator: str, room: int, **changes: Any) -> FewShotPreparation:
        changed: Preparation = replace(data.preparation, tokenizer=tokenizer, **changes)
        return few_shot_preparation(
            changed,
            shots=SHOTS,
            separator=separator,
            room=room,
            names={"train": [], "validation": [], "test": ["held"]},
        )

    return prepared


def evaluated(preparation: FewShotPreparation) -> list[Example]:
    return list(preparation.benchmark.examples("held"))[:8]


class Slowly:
    """The prompts of an example, whose number of demonstrations is found by tokenizing whole prompts."""

    def __init__(self, preparation: FewShotPreparation, example: Example) -> None:
        task = preparation.benchmark.task("held")
        shown = preparation._demonstrations(task, example)
        self.prompts = [
            preparation.render_after(task, example, shown[:number], preparation.separator)
            for number in range(len(shown) + 1)
        ]
        self.lengths = [len(ids) for ids in preparation.tokenize_sources(self.prompts)]

    def within(self, room: int) -> Prompt:
        return self.prompts[most_fitting(len(self.prompts) - 1, lambda number: self.lengths[number] <= room)]


def differences(preparation: FewShotPreparation, examples: list[Example]) -> int:
    """The number of limits, around the length of each prompt, with other demonstrations than by whole prompts."""
    task, number = preparation.benchmark.task("held"), 0
    for example in examples:
        slow = Slowly(preparation, example)
        for room in {length + change for length in slow.lengths for change in (-3, -1, 0)}:
            limited = replace(preparation, room=room)
            number += limited.few_shot_prompt(task, example, SHOTS) != slow.within(room)
    return number


@pytest.mark.parametrize("separator", ["\n\n\n", "", " " * 40])
@pytest.mark.parametrize("kind", KINDS)
def test_the_prompts_are_those_of_whole_tokenization(kind: str, separator: str, prepared: Make) -> None:
    """At the limits that a prompt just meets or misses, and with merges across the joint."""
    preparation = prepared(KINDS[kind](), separator, 0, pair=kind == "t5")
    assert differences(preparation, evaluated(preparation)[:2]) == 0


def test_added_lengths_differ_from_whole_ones(prepared: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that are joined are one word: without the margin, the test above would fail."""
    monkeypatch.setattr(prompt_lengths, "MARGIN", -1)
    monkeypatch.setattr(prompt_lengths, "_bytes_at_joint", lambda before, after: 0)
    preparation = prepared(tokenizer_kinds.whole_words(), "", 0)
    assert differences(preparation, evaluated(preparation)) > 8


def test_demonstrations_are_tokenized_once(prepared: Make, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts far from the limit are not tokenized as a whole: their demonstrations are, once for each delimiter."""
    preparation = prepared(tokenizer, "\n\n", 10_000)
    task, examples = preparation.benchmark.task("held"), evaluated(preparation)
    whole: list[str] = []
    sources = FewShotPreparation.tokenize_sources
    monkeypatch.setattr(
        FewShotPreparation,
        "tokenize_sources",
        lambda self, prompts: [whole.append(prompt.source) for prompt in prompts] and sources(self, prompts),
    )
    prompts = [preparation.few_shot_prompt(task, example, SHOTS).source for example in examples for _ in range(3)]
    assert len(whole) == len(set(whole)) <= len(examples)
    assert not set(whole) & set(prompts)
    assert all(source.endswith("\n\n") for source in whole)
