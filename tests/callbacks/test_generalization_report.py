"""The evaluation callbacks in a real Trainer: what they write when, and in which order."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from crosstask.callbacks.generalization_report import GeneralizationReport
from crosstask.callbacks.prediction_writer import PredictionWriter
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.schema import EvaluationExample, Level
from crosstask.lightning_modules.evaluation.answers import Answer
from crosstask.lightning_modules.evaluation.generation_scores import GenerationScores
from crosstask.lightning_modules.evaluation.metrics import Scores

TASKS: tuple[tuple[str, Level], ...] = (("copy", "fully_supervised"), ("sort", "fully_held_out"))
EXAMPLES = [
    EvaluationExample(number, TASKS[number % 2][0], TASKS[number % 2][0].title(), TASKS[number % 2][1], *asked)
    for number, asked in enumerate(
        [("a", "say yes", ("yes",)), ("b", "say no", ("no",)), ("c", "1\u20282", ("é",)), ("d", "3\x854", ("4 5",))]
    )
]
ANSWERS = [" YES", "yes", "line\u2028separator\u2029and\x85more", "4"]
BATCHES = [[3, 1], [], [2], [0]]  # not in order; the second asks nothing


class Data(L.LightningDataModule):
    """The part of the data contract that evaluation uses; nothing of it can resume."""

    tokenizer_name, rows = "", Rows()

    def evaluation_fingerprint(self, stage: str) -> None: ...
    def skip_examples(self, stage: str, numbers: Collection[int]) -> None: ...
    def evaluation_coverage(self, stage: str, scored: Collection[int]) -> None: ...
    def training_fingerprint(self) -> None: ...
    def require_same_stream(self, checkpoint: Any) -> None: ...
    def step_examples(self) -> None: ...
    def report(self) -> None: ...
    def describe(self, steps: int | None = None) -> None: ...

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(range(len(BATCHES)), batch_size=None)  # type: ignore[arg-type]

    train_dataloader = test_dataloader = predict_dataloader = val_dataloader

    def evaluation_examples(self, stage: str) -> Sequence[EvaluationExample]:
        assert stage in ("validation", "test")
        return EXAMPLES


class Parrot(L.LightningModule):
    """Answers from a list."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.generation_scores = GenerationScores()
        self.scores: Scores | None = None
        self.times = times

    def training_step(self, batch: int, batch_idx: int) -> torch.Tensor:
        return self.weight**2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def test_step(self, batch: int, batch_idx: int) -> Any:
        answers = [Answer.of(EXAMPLES[number], ANSWERS[number]) for number in BATCHES[int(batch)]] * self.times
        self.generation_scores.update(answers)
        return answers or None

    validation_step = predict_step = test_step

    def on_test_epoch_end(self) -> None:
        self.scores = self.generation_scores.compute()
        self.generation_scores.reset()

    on_validation_epoch_end = on_test_epoch_end


def trainer(folder: Path, **settings: Any) -> L.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks: list[L.Callback] = [GeneralizationReport(), PredictionWriter()]
    return L.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, callbacks=callbacks, **quiet, **settings)


def lines(path: Path) -> list[dict[str, Any]]:
    """As every reader of JSONL splits it: at newlines, not at Unicode's other line ends."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_report_is_printed_and_written_after_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path).test(Parrot(), Data(), verbose=False)
    printed = capsys.readouterr().out
    assert all(level in printed for level in ("fully supervised", "partially supervised", "fully held out"))
    assert "no tasks" in printed
    report = json.loads((tmp_path / "report/test/report.json").read_text())
    # copy: " YES" is right, the answer for é is not; sort: "yes" for "no" is wrong, "4" is half of "4 5" (F1 2/3).
    means = {group["name"]: [group["estimates"][metric]["mean"] for metric in ("rouge_l", "exact_match")]
             for group in [*report["tasks"], *report["overall"]]}  # fmt: skip
    assert means["copy"] == [0.5, 0.5]
    assert means["sort"] == pytest.approx([1 / 3, 0.0])
    assert means["overall"] == pytest.approx([5 / 12, 0.25])
    markdown = (tmp_path / "report/test/report.md").read_text()
    assert "| partially supervised | 0 | 0 | no tasks | no tasks |" in markdown
    # ROUGE-L reads no letter of "é", and says so beside the score, in each format
    assert [group["unread"] for group in [*report["overall"], *report["tasks"]]] == [1, 1, 0]
    assert "(1 unread) |" in next(line for line in markdown.splitlines() if line.startswith("| copy |"))
    assert "1 instance of 1 task: copy (1 of 2)" in markdown
    assert "--model.rouge unicode" in " ".join(printed.split())
    page = (tmp_path / "report/test/report.html").read_text()
    assert page.count("1 unread") == page.count("1 instance of 1 task: copy (1 of 2)") == 1


def test_paths_are_printed_whole_on_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that a terminal's width breaks cannot be copied, and rich would read [bold] as markup."""
    folder = tmp_path / "[bold]" / ("long" * 30)
    trainer(folder).test(Parrot(), Data(), verbose=False)
    printed = capsys.readouterr().out.splitlines()
    assert f"categories and tasks: {folder}/report/test/report.md" in printed
    assert f"HTML page: {folder}/report/test/report.html" in printed


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_predictions_are_one_line_each_in_the_order_of_the_examples(tmp_path: Path, stage: str) -> None:
    run = trainer(tmp_path)
    evaluate: dict[str, Callable[..., Any]] = {"validation": run.validate, "test": run.test, "predict": run.predict}
    evaluate[stage](Parrot(), datamodule=Data())
    written = lines(tmp_path / f"predictions/{stage}.jsonl")
    assert [line["number"] for line in written] == [0, 1, 2, 3]
    assert [line["prediction"] for line in written] == ANSWERS
    assert [line["prompt"] for line in written] == [example.source for example in EXAMPLES]
    assert written[0] == {
        "number": 0, "benchmark": "", "task": "copy", "parent": None, "category": "Copy", "level": "fully_supervised",
        "shots": 0, "metric": "rouge_l", "match": "text", "id": "a", "prompt": "say yes", "references": ["yes"],
        "prediction": " YES",
        "rouge_l": 1.0, "exact_match": True, "token_f1": 1.0,
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == [f"{stage}.jsonl"]  # no parts are left


def test_an_example_answered_twice_is_written_once(tmp_path: Path) -> None:
    """As by the processes of a tensor-parallel group, which all answer the same."""
    trainer(tmp_path).test(Parrot(times=2), Data(), verbose=False)
    assert [line["number"] for line in lines(tmp_path / "predictions/test.jsonl")] == [0, 1, 2, 3]


def test_a_run_that_breaks_off_keeps_what_it_had(tmp_path: Path) -> None:
    class Breaks(Parrot):
        def test_step(self, batch: int, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise RuntimeError("out of time")
            return super().test_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="out of time"):
        trainer(tmp_path).test(Breaks(), Data(), verbose=False)
    (part,) = (tmp_path / "predictions").iterdir()
    assert [line.get("number") for line in lines(part)] == [None, 3, 1]  # the first line tells who answered what
    of_another_process = part.with_name(part.name.replace("0", "1"))
    of_another_process.write_text(json.dumps({"number": 9}) + "\n")

    trainer(tmp_path).test(Parrot(), Data(), verbose=False)  # and what it had is not mixed into the next run's
    assert [line["number"] for line in lines(tmp_path / "predictions/test.jsonl")] == [0, 1, 2, 3]
    assert not part.exists()
    assert not of_another_process.exists()


def test_validation_during_fit_writes_and_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = Parrot()
    trainer(tmp_path, max_epochs=1, enable_checkpointing=False).fit(module, datamodule=Data())
    assert module.scores is not None  # it did validate
    assert len(module.scores.number) == 4
    assert "Generalization report" not in capsys.readouterr().out
    assert not (tmp_path / "report").exists()
    assert not (tmp_path / "predictions").exists()
