"""Scorers that are trained on pairs in their tokenizer's chat template, as reward models of chat models are."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapted_tasks import TASKS, answers, held_out_ids, training
from recipes import store_of
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.rendering.prompts import ChatPrompt
from crosstask.datamodules.schema import Example, Turn
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.pair_preparation import SEVERAL_MESSAGES
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.samples import ModelSamples
from crosstask.datamodules.scoring.scorer_settings import PairRows
from crosstask.datamodules.splits import Instances
from crosstask.lightning_modules.adaptation.scorer_records import scored_record
from crosstask.lightning_modules.adaptation.task_scorer import adapt
from crosstask.lightning_modules.scoring.sampled_responses import read_sampled_responses


@pytest.fixture
def chat_tokenizer(toybench: Path, tmp_path: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(toybench / "tokenizer")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def in_template(tokenizer: PreTrainedTokenizerBase, instruction: str, response: str) -> list[int]:
    turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]
    return list(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])  # type: ignore[index, call-overload]


class WithAConversation(NaturalInstructions):
    """The benchmark, with a conversation of three messages as the second of every ten examples."""

    def examples(self, name: str) -> Iterator[Example]:
        turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
        for place, example in enumerate(super().examples(name)):
            yield replace(example, turns=turns) if place % 10 == 1 else example


def test_pairs_are_the_ids_of_the_chat_template(
    toybench: Path, tmp_path: Path, chat_tokenizer: PreTrainedTokenizerBase
) -> None:
    data = ScorerDataModule(
        WithAConversation(str(toybench)),
        chat_tokenizer.name_or_path,
        prompt=ChatPrompt(),
        rows=PairRows(length=256, pair_length=96),
        instances=Instances(train=6, validation=0, test=40),
        cache=str(tmp_path),
    )
    preparation, task = data.preparation, data.benchmark.task(TASKS[0])
    found = list(preparation.pairs(task, list(data.benchmark.examples(task.name))[:6]))
    assert [item for item in found if isinstance(item, str)] == [SEVERAL_MESSAGES]
    pairs = [item for item in found if not isinstance(item, str)]
    assert len(pairs) == 10
    for pair, document in zip(pairs, preparation.tokenize_scored(pairs), strict=True):
        assert document.input_ids.tolist() == in_template(chat_tokenizer, pair.instruction, pair.response)
    data.setup("test")
    evaluated = data.stage("test").evaluated  # type: ignore[attr-defined]
    assert evaluated.skipped[SEVERAL_MESSAGES] > 0
    documents = preparation.tokenize_scored(evaluated.responses[0])
    for pair, document in zip(evaluated.responses[0], documents, strict=True):
        assert document.input_ids.tolist() == in_template(chat_tokenizer, pair.instruction, pair.response)


def test_a_scorer_reads_responses_as_it_was_trained(
    toybench: Path, tmp_path: Path, chat_tokenizer: PreTrainedTokenizerBase
) -> None:
    benchmark, prompt = NaturalInstructions(str(toybench)), ChatPrompt()
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    settings = training(toybench, steps=1, tokenizer=chat_tokenizer.name_or_path, calibration_examples=2)
    found = adapt(
        benchmark,
        TASKS[0],
        settings,
        prompt=prompt,
        samples=[file],
        augmentation=True,
        test_examples=3,
        rendering_seed=0,
        cache=str(store_of(toybench)),
    )
    test = SampledExamples(benchmark, prompt, ["test"], TASKS[:1], validation_examples=0, test_examples=3)
    sampled = read_sampled_responses(test, ModelSamples([file]))
    assert {one.prompt.example.id for one in sampled} == held_out_ids(benchmark, TASKS[0], 3)
    scores = scored_record(found, settings, sampled)["scores"]
    model = found.module.scorer.eval()
    for one, of_one in zip(sampled, scores, strict=True):
        for sample, score in zip(one.samples, of_one, strict=True):
            ids = torch.tensor([in_template(chat_tokenizer, one.prompt.source, sample.response)])
            with torch.no_grad():
                expected = model(ids, torch.ones_like(ids)).logits[0, 0]
            assert score == pytest.approx(float(expected), abs=1e-5)
