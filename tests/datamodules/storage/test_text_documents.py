"""Pre-training text of an encoder-decoder model in the store: what a text becomes, and what it is made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosstask.datamodules import Bench, InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.benchmarks import BenchmarkText, PretrainingText
from crosstask.datamodules.bilevel.level_instances import read_instances
from crosstask.datamodules.rendering.bpe import write_bpe
from crosstask.datamodules.rendering.pretraining_objectives import (
    TOO_SHORT,
    PrefixLanguageModelling,
    SpanCorruption,
    TextObjective,
)
from crosstask.datamodules.rendering.special_tokens import encode

TEXTS = ["One two three four five six seven eight nine ten.", "x", "Eleven twelve.", " "]

MakeTextData = Callable[..., InstructionTuningDataModule]


@pytest.fixture
def make_text_data(make_datamodule: Any, tmp_path: Path) -> MakeTextData:
    """Texts for an encoder-decoder model, read by an objective."""
    write_bpe([], tmp_path / "tokenizer", vocabulary=270, longest=64, sentinels=12)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def make(objective: TextObjective | None, **arguments: Any) -> InstructionTuningDataModule:
        texts = PretrainingText({"a": str(tmp_path / "texts.jsonl")}, objective=objective)
        defaults: dict[str, Any] = {"benchmark": Bench({"text": texts}), "tokenizer": str(tmp_path / "tokenizer")}
        defaults |= {"rows": {"length": 32, "target_length": 16, "per_step": 2}, "cache": str(tmp_path / "store")}
        defaults |= {"instances": {"validation": 0, "test": 0}}
        data: InstructionTuningDataModule = make_datamodule(**(defaults | arguments))
        return data

    return make


def test_pieces_of_all_texts_are_stored_and_lead_back_to_their_examples(make_text_data: MakeTextData) -> None:
    data = make_text_data(PrefixLanguageModelling(length=16))
    data.prepare_data()
    data.setup("fit")
    [stored] = data.training_tasks.open(["text/a"])
    ids = encode(data.preparation.tokenizer, TEXTS)
    documents = [stored.document(index) for index in range(len(stored))]
    assert [len(documents), dict(stored.skipped)] == [4 + 1, {"no text": 1, TOO_SHORT: 1}]
    sides = [np.concatenate([one.input_ids[: one.n_source - 1], one.input_ids[one.n_source : -1]]) for one in documents]
    assert np.concatenate(sides).tolist() == ids[0] + ids[2]
    assert data.training_tasks.example_ids("text/a", stored, range(5)) == ["0", "0", "0", "0", "2"]


def test_the_key_of_stored_documents_has_the_objective(make_text_data: MakeTextData) -> None:
    objectives = [None, PrefixLanguageModelling(length=16), SpanCorruption(length=16), SpanCorruption(16, share=0.3)]
    folders = {make_text_data(objective).training_tasks.folder("text/a") for objective in objectives}
    assert len(folders) == len(objectives)


def test_another_seed_corrupts_other_spans_and_the_same_seed_equal_ones(
    make_text_data: MakeTextData, tmp_path: Path
) -> None:
    def tokens(seed: int, name: str) -> bytes:
        data = make_text_data(SpanCorruption(length=32), seed=seed, cache=str(tmp_path / name))
        data.prepare_data()
        return (data.training_tasks.folder("text/a") / "tokens.bin").read_bytes()

    assert tokens(0, "first") == tokens(0, "second") != tokens(1, "third")


def test_a_decoder_only_model_has_no_objective(make_text_data: MakeTextData) -> None:
    data = make_text_data(SpanCorruption(length=16), rows={"length": 32, "per_step": 2})
    with pytest.raises(ValueError, match=r"'text/a' has the objective SpanCorruption, .* set rows.target_length, or"):
        data.prepare_data()


def test_instruction_optimization_reads_no_text_with_an_objective(make_text_data: MakeTextData) -> None:
    data = make_text_data(SpanCorruption(length=16))
    with pytest.raises(ValueError, match="'text/a' is pre-training text with an objective, which has no instruction"):
        read_instances(data.preparation, ["text/a"], validated=False, tested=[])


def test_a_split_without_tasks_is_reported(make_text_data: MakeTextData, tmp_path: Path) -> None:
    texts = PretrainingText({"a": str(tmp_path / "texts.jsonl")})
    data = make_text_data(None, benchmark=BenchmarkText(texts, split="test"))
    with pytest.raises(ValueError, match="benchmark_text lists no training tasks"):
        data.setup("fit")


def test_the_text_of_a_benchmark_is_that_of_its_split(toybench: Path) -> None:
    tasks = NaturalInstructions(str(toybench))
    text = BenchmarkText(tasks, split="test", objective=SpanCorruption())
    assert (text.task_names("train"), text.task_names("test")) == (tasks.task_names("test"), [])
    name = tasks.task_names("test")[0]
    first, second, *others = text.examples(name)
    [example, *_] = tasks.examples(name)
    assert first.targets == (tasks.task(name).definition,)
    assert second.targets == (f"{example.input}\n{example.targets[0]}",)
    assert [first.input, second.input, second.id, second.index] == ["", "", example.id, 1]
    assert len(others) + 1 == len(list(tasks.examples(name)))
    assert text.task(name).instruction_level == "none"
    assert text.objective(name) == SpanCorruption()
    assert text.fingerprint(name) != tasks.fingerprint(name)
