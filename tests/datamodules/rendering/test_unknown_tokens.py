"""What a tokenizer loses is counted by task, for sources and targets; options it cannot tell apart are not ranked."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lossy_tokenizers import KINDS, saved
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from crosstask.callbacks.report.coverage_text import coverage_sentence, task_rows
from crosstask.commands.classify import classify_tasks
from crosstask.datamodules import InstructionTuningDataModule, ScorerDataModule
from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.evaluation.coverage import suite_coverage
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.rendering.prompts import PromptForm
from crosstask.datamodules.rendering.tokenization import tokenize_joint, tokenize_pair
from crosstask.datamodules.rendering.unknown_tokens import UnknownCounter, UnknownTokens
from crosstask.datamodules.schema import Example, Prompt, Task
from crosstask.datamodules.scoring.scorer_settings import PairRows
from crosstask.datamodules.splits import Instances

ROWS = {
    "plain": [("which is right", "yes")] * 6,
    "code": [("write a loop", "for x: { x }")] * 3 + [("write a line", "x = 1")] * 3,
    "markup": [("the tag <b> is bold", "<b> and <i>")] * 6,
    "lines": [("a list\nof two", "one\ntwo\nthree")] * 6,
}
OPTIONS = {"brackets": ("<", "{"), "braces": ("}", "{"), "words": ("yes", "no")}


@dataclass(frozen=True)
class Bare(PromptForm):
    """An example's input alone: the delimiters of OPT-IML's prompts have line breaks and capitals of their own."""

    def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
        return Prompt(example.input, example.targets[0])


class Lossy(Benchmark):
    """Tasks of six rows with targets, and tasks of options, all trained and tested."""

    name = "lossy"

    def __init__(self, tested: bool = False, options: bool = False) -> None:
        self.tested, self.options = tested, options

    def task_names(self, split: Split) -> list[str]:
        if split == "validation" or (split == "test" and not self.tested):
            return []
        return list(OPTIONS if self.options else ROWS)

    def task(self, name: str) -> Task:
        return Task("lossy", name, "c", instruction_level="instance")

    def examples(self, name: str) -> Iterator[Example]:
        for place in range(6):
            source, target = ROWS[name][place] if name in ROWS else ("choose one", OPTIONS[name][place % 2])
            options, answer = (OPTIONS[name], place % 2) if name in OPTIONS else ((), None)
            yield Example(
                name,
                str(place),
                place,
                f"{source} {place}",
                (f"{target} {place}" if name in ROWS else target,),
                "",
                options,
                answer,
            )

    def fingerprint(self, name: str) -> str:
        return name


def data(kind: str, tmp_path: Path, *, tested: bool = False, **arguments: Any) -> InstructionTuningDataModule:
    return InstructionTuningDataModule(
        Lossy(tested, options="evaluation" in arguments and arguments["evaluation"].ranking is not None),
        saved(kind, tmp_path / kind),
        prompt=Bare(),
        rows=Rows(length=96, target_length=48, per_step=2),
        cache=str(tmp_path / "store"),
        **{
            "instances": Instances(validation=0, test=2, held_out_share=None),
            "evaluation": Evaluation(max_new_tokens=8),
            **arguments,
        },
    )


# "code" has two braces in three of its six targets; WordPiece splits punctuation from words.
EXPECTED = {
    "unigram": {"code": (0, 6, 3), "markup": (12, 24, 6), "lines": (6, 12, 6)},
    "wordpiece": {"code": (0, 6, 3), "markup": (12, 24, 6), "lines": (6, 12, 6)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_tokens_are_counted_once_and_stored(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = data(kind, tmp_path)
    module.prepare_data()
    monkeypatch.setattr(UnknownCounter, "of_document", None)  # what is read again is not counted again
    again = data(kind, tmp_path)
    again.prepare_data()
    again.setup("fit")
    report: Any = again.report()
    assert report.unknown == {name: UnknownTokens(*counts) for name, counts in EXPECTED[kind].items()}
    lines = dict(report.lines())
    assert lines["unknown tokens in sources"] == "18 in 2 tasks: markup 12, lines 6"
    assert lines["unknown tokens in targets"] == "42 in 15 examples of 3 tasks: markup 24, lines 12, code 6"


def test_bytes_lose_nothing(make_datamodule: Any, tokenizer: Any) -> None:
    assert not UnknownCounter(tokenizer).loses_text
    module = make_datamodule()
    module.prepare_data()
    module.setup("fit")
    assert dict(module.report().lines())["unknown tokens in targets"] == "none"


def test_an_unknown_token_that_is_the_end_does_not_count() -> None:
    """GPT-2 and OPT call their end token the unknown one, and every document ends with it."""
    tokenizer = KINDS["unigram"]()
    assert UnknownCounter(tokenizer).unknown == 2
    tokenizer.unk_token = "</s>"
    assert UnknownCounter(tokenizer).unknown is None


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_a_scorer_are_counted(kind: str, tmp_path: Path) -> None:
    module = ScorerDataModule(
        Lossy(),
        saved(kind, tmp_path / kind),
        prompt=Bare(),
        rows=PairRows(length=128, pair_length=96, per_step=1),
        instances=Instances(validation=0, test=2, held_out_share=None),
        cache=str(tmp_path / "store"),
    )
    module.prepare_data()
    module.setup("fit")
    report: Any = module.report()
    assert report.unknown["code"].target > 0
    assert report.unknown["markup"].source > 0


@pytest.mark.parametrize("kind", KINDS)
def test_evaluated_tasks_are_counted_too(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = data(kind, tmp_path, tested=True)
    module.prepare_data()
    with caplog.at_level("INFO"):
        module.setup("test")
    unknown = module.stage("test").evaluated.unknown  # type: ignore[attr-defined]
    assert unknown["markup"] == (4, 8, 2, 0, 0)  # two of six examples are tested
    assert unknown["plain"] == (0, 0, 0, 0, 0)
    assert "unknown tokens in targets of the test examples" in caplog.text

    column = SimpleNamespace(column="c", level="fully_held_out", tasks=dict.fromkeys(ROWS, 2))
    table: Any = SimpleNamespace(stated_by="a table", missing={}, expected=dict.fromkeys(ROWS, column))
    examples = module.evaluation_examples("test")
    coverage = suite_coverage(table, examples, range(len(examples)), {}, range(len(examples)), unknown)
    assert "markup 8" in coverage_sentence(coverage)
    assert ["markup", "c", "2", "0", "2", "4 unknown tokens in prompts, 8 in answers"] in task_rows(coverage)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_options_are_skipped_with_their_task(kind: str, tmp_path: Path) -> None:
    """Two tasks of three; before, the first of them stopped the whole test."""
    module = data(kind, tmp_path, tested=True, evaluation=Evaluation(max_new_tokens=8, ranking=OptionRanking()))
    module.prepare_data()
    module.setup("test")
    stage = module.stage("test")
    assert {example.task for example in stage.examples} == {"words"}
    reason = "options that are the same tokens to this tokenizer, task"
    assert stage.skipped == {f"{reason} brackets": 2, f"{reason} braces": 2}
    assert len(list(module.test_dataloader())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_responses_are_neither_trained_nor_ranked(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One sequence of tokens would have the labels 0 and 1."""
    module = ScorerDataModule(
        Lossy(tested=True, options=True),
        saved(kind, tmp_path / kind),
        prompt=Bare(),
        rows=PairRows(length=128, pair_length=96, per_step=1),
        instances=Instances(validation=0, test=2, held_out_share=None),
        cache=str(tmp_path / "store"),
    )
    module.prepare_data()
    with caplog.at_level("INFO"):
        module.setup("fit")
    report: Any = module.report()
    assert report.tasks == 1
    assert "brackets, braces (options that are the same tokens)" in caplog.text
    module.setup("test")
    assert {example.task for example in module.stage("test").examples} == {"words"}
    assert sum(module.stage("test").skipped.values()) == 4


def test_models_classify_what_all_of_them_can_tell_apart(tokenizer: Any, tmp_path: Path) -> None:
    """A scorer with WordPiece loses two tasks, and the language model beside it is asked the same questions."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    lossy = KINDS["wordpiece"]()
    scorer = BertForSequenceClassification(BertConfig(vocab_size=len(lossy), num_labels=1, **sizes))
    generator = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    for model, texts, name in ((scorer, lossy, "scorer"), (generator, tokenizer, "generator")):
        model.save_pretrained(tmp_path / name)
        texts.save_pretrained(tmp_path / name)
    output = tmp_path / "both"
    both = {"scorer": str(tmp_path / "scorer"), "generator": str(tmp_path / "generator")}
    classify_tasks(Lossy(options=True), str(output), **both, max_length=64)
    report = json.loads((output / "report.json").read_text())
    assert list(report["models"]["generator"]["tasks"]) == list(report["models"]["scorer"]["tasks"]) == ["words"]
    reason = "options that are the same tokens to this tokenizer, task"
    assert Counter(report["skipped"]) == {f"{reason} brackets": 6, f"{reason} braces": 6}
    alone = tmp_path / "alone"
    classify_tasks(Lossy(options=True), str(alone), generator=both["generator"], max_length=64)
    assert len(json.loads((alone / "report.json").read_text())["models"]["generator"]["tasks"]) == 3


def test_a_target_that_leaves_no_token_is_lost() -> None:
    """An accent alone, to an uncased tokenizer: the document would train its end."""
    tokenizer = KINDS["wordpiece"]()
    prompts = [Prompt("which accent", text) for text in ("\u0301", "e\u0301", "\u0301 \u0308")]
    documents = tokenize_joint(tokenizer, prompts)
    counter = UnknownCounter(tokenizer)
    counts = [counter.of_document(d, p.source, p.target) for d, p in zip(documents, prompts, strict=True)]
    assert [target for _, target, _ in counts] == [1, 0, 1]


NORMALIZERS = {
    "lowercase": normalizers.Lowercase(),
    "nfkc": normalizers.NFKC(),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]),
    "bytes": normalizers.ByteLevel(),
    "none": normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
}
CHANGED = {
    "Ada Lovelace, 1815": {"lowercase": 2},
    "x\u00b2 + \ufb01ve": {"nfkc": 2},  # x2 + five
    "\u00c9t\u00e9": {"lowercase": 1, "accents": 2},
    "E\u0301te\u0301": {"lowercase": 1, "accents": 2},  # the same word, decomposed
    "all lower case": {},
}


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("kind", NORMALIZERS)
def test_characters_that_a_normalizer_changes_are_counted(kind: str, pair: bool) -> None:
    """No token is unknown: the model is trained on another text than the file's, and cannot write the file's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    backend.normalizer = NORMALIZERS[kind]
    if kind != "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    prompts = [Prompt("UPPER case and \u00b2 in a source", target) for target in CHANGED]
    documents = (tokenize_pair if pair else tokenize_joint)(tokenizer, prompts)
    counter = UnknownCounter(tokenizer)
    counts = [counter.of_document(d, p.source, p.target) for d, p in zip(documents, prompts, strict=True)]
    assert counts == [(0, 0, of_target.get(kind, 0)) for of_target in CHANGED.values()]


def test_changed_characters_are_in_the_packing_report_by_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WordPiece lowers capitals, with unknown tokens or without."""
    rows = {"plain": [("which is right", "Yes")] * 6, "code": [("a line", "For x: { X }")] * 6}
    monkeypatch.setattr(f"{__name__}.ROWS", {name: rows.get(name, row) for name, row in ROWS.items()})
    module = data("wordpiece", tmp_path, tested=True)
    module.prepare_data()
    module.setup("fit")
    report: Any = module.report()
    assert report.unknown["plain"] == UnknownTokens(changed=4, changed_examples=4)
    assert report.unknown["code"] == UnknownTokens(target=8, examples=4, changed=8, changed_examples=4)
    line = dict(report.lines())["characters of targets that the tokenizer changes"]
    assert line == "12 in 8 examples of 2 tasks: code 8, plain 4"
    module.setup("test")
    assert module.stage("test").evaluated.unknown["plain"].changed == 2  # type: ignore[attr-defined]
