"""Options ranked in evaluation: which examples, which batches, and what is written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from crosstask.callbacks import PredictionWriter
from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.evaluation.batch_loaders import OptionLoader
from crosstask.datamodules.evaluation.options import OptionRanking, label_options
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.schema import Example, Task
from crosstask.lightning_modules import InstructionTuningModule
from crosstask.lightning_modules.evaluation.likelihood import score_options
from crosstask.lightning_modules.models import Network

ENCODER_DECODER = {
    "t5": {
        "model_type": "t5",
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "bart": {
        "model_type": "bart",
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "max_position_embeddings": 160,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "decoder_start_token_id": 0,
    },
}


class Quiz(Benchmark):
    """Questions with options of their own, some of which cannot be ranked."""

    name = "quiz"
    CHOICES: tuple[tuple[tuple[str, ...], int | None], ...] = (
        (("red", "blue"), 0),
        (("one", "two", "three"), 2),
        (("same", " same"), 0),
        (("left", "right"), None),
        ((), None),
        (("alone",), 0),
    )

    def task_names(self, split: Split) -> list[str]:
        return ["asked"] if split == "test" else ["trained"] if split == "train" else []

    def task(self, name: str) -> Task:
        return Task("quiz", name, "Quiz", instruction_level="instance", metric="accuracy")

    def examples(self, name: str) -> Iterator[Example]:
        for place, (options, answer) in enumerate(self.CHOICES):
            target = options[answer or 0] if options else "free"
            text = f"Question {place} of many: which one?"
            yield Example(name, str(place), place, text, (target,), options=options, answer=answer)

    def fingerprint(self, name: str) -> str:
        return name


def module(
    data: InstructionTuningDataModule, tiny_model: dict[str, Any], attention: str = "document", **arguments: Any
) -> InstructionTuningModule:
    network = Network(attention=attention, dtype="float64")
    found = InstructionTuningModule(
        data.tokenizer_name, config=tiny_model, row_length=128, network=network, **arguments
    )
    torch.manual_seed(0)
    return found


def run_test(data: InstructionTuningDataModule, model: InstructionTuningModule, folder: Path) -> list[dict[str, Any]]:
    """The lines of predictions that a test writes."""
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[PredictionWriter(str(folder))],
    )
    trainer.test(model, data, verbose=False)
    return [json.loads(line) for line in (folder / "test.jsonl").read_text().split("\n") if line]


def test_examples_with_options_are_ranked_and_the_others_written(
    make_datamodule: Callable[..., InstructionTuningDataModule],
    tiny_model: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = make_datamodule(
        benchmark=Quiz(), instances={"test": 6}, evaluation={"ranking": OptionRanking(unconditional="Answer:")}
    )
    data.setup("test")
    assert data.stage("test").skipped == {
        "duplicate options": 1,
        "the gold answer is missing among the options": 1,
    }
    lines = run_test(data, model := module(data, tiny_model), tmp_path)
    assert [line["id"] for line in lines] == ["0", "1", "4", "5"]
    assert ["options" in line for line in lines] == [True, True, False, True]
    assert lines[2].get("accuracy") is None  # nothing to choose from
    assert lines[3]["accuracy"] == 1.0  # a single option is right
    for line in (lines[0], lines[1], lines[3]):
        (scores,) = score_options(
            model.language_model, model.tokenizer, [line["prompt"]], [list(line["options"])], unconditional="Answer:"
        )
        for kind, expected in scores._asdict().items():
            assert [each[kind] for each in line["options"].values()] == pytest.approx(expected, abs=1e-10)
        assert line["prediction"] == list(line["options"])[scores.best().place]
        assert line["accuracy"] == float(line["prediction"] == line["right_option"])
    assert model.scores is not None
    assert model.scores.means()["accuracy"] == pytest.approx(sum(lines[i]["accuracy"] for i in (0, 1, 3)) / 3)


class OnlyChoices(Quiz):
    """Nothing is left to be written, as in MMLU."""

    CHOICES = Quiz.CHOICES[:2] * 3


def test_a_benchmark_of_choices_alone_has_nothing_to_write(
    make_datamodule: Callable[..., InstructionTuningDataModule], tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    data = make_datamodule(benchmark=OnlyChoices(), evaluation={"ranking": OptionRanking()})
    lines = run_test(data, module(data, tiny_model), tmp_path)
    assert ["options" in line for line in lines] == [True, True, True]


@pytest.mark.parametrize("name", ENCODER_DECODER)
def test_encoder_decoder_models_rank_with_and_without_packing(
    name: str, make_datamodule: Callable[..., InstructionTuningDataModule], tmp_path: Path
) -> None:
    packing, attention = ("best_fit", "document") if name == "t5" else ("one_per_row", "sdpa")
    data = make_datamodule(
        benchmark=Quiz(),
        instances={"test": 6},
        evaluation={"ranking": OptionRanking(), "batch_tokens": 60},
        rows={"target_length": 16, "packing": packing},
    )
    model = module(data, ENCODER_DECODER[name], attention=attention)
    lines = [line for line in run_test(data, model, tmp_path) if "options" in line]
    assert len(lines) == 3
    scores = score_options(
        model.language_model,
        model.tokenizer,
        [line["prompt"] for line in lines],
        [list(line["options"]) for line in lines],
    )
    for line, expected in zip(lines, scores, strict=True):
        assert [each["sum"] for each in line["options"].values()] == pytest.approx(expected.sum, abs=1e-10)


def test_shared_rows_are_rejected_by_a_model_that_reads_one_option_a_row(
    make_datamodule: Callable[..., InstructionTuningDataModule], tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    data = make_datamodule(benchmark=Quiz(), instances={"test": 6}, evaluation={"ranking": OptionRanking()})
    with pytest.raises(ValueError, match="with sdpa attention reads one option a row: set the datamodule's packing"):
        run_test(data, module(data, tiny_model, attention="sdpa"), tmp_path)


def test_labels_are_the_options_of_a_task_that_lists_none(
    make_datamodule: Callable[..., InstructionTuningDataModule],
) -> None:
    data = make_datamodule(evaluation={"ranking": OptionRanking(labels=2)})
    data.setup("test")
    ranked = [example for example in data.evaluation_examples("test") if example.options]
    assert {example.options for example in ranked} == {("no", "yes")}
    assert {example.task for example in ranked} == {"task078_toy_has_numbers", "task079_toy_has_names"}
    assert all(example.options[example.answer or 0] == example.references[0] for example in ranked)
    assert label_options([["a"], ["b"]] * 4, most=2) == ()  # seen four times each: too few to be a label


@pytest.mark.parametrize("size", [2, 3, 50])
def test_every_example_is_ranked_once_and_batches_are_the_same_whoever_ranks_them(
    make_datamodule: Callable[..., InstructionTuningDataModule], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data = make_datamodule(evaluation={"ranking": OptionRanking(labels=8), "batch_tokens": 300})
    data.setup("test")

    def ranked_by(here: Replicas) -> list[tuple[list[int], list[list[int]]]]:
        """Numbers of the examples and the rows of each batch."""
        monkeypatch.setattr("crosstask.datamodules.base.replicas", lambda trainer: here)
        loader = data.test_dataloader().loaders[0]
        assert isinstance(loader, OptionLoader)
        batches = list(loader)
        assert len(batches) == len(loader)
        return [([each.example.number for each in b.ranked], b.input_ids.tolist()) for b in batches]

    alone = ranked_by(Replicas())
    parts = [ranked_by(Replicas(size, rank)) for rank in range(size)]
    assert len({len(part) for part in parts}) == 1  # in step
    together = [batch for part in parts for batch in part if batch[0]]
    assert sorted(alone) == sorted(together)
    with_options = [example.number for example in data.evaluation_examples("test") if example.options]
    assert sorted(number for numbers, _ in alone for number in numbers) == with_options
