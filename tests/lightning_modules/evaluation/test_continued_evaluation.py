"""A test that is killed goes on from its predictions, and ends in the report of an undisturbed one."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml
from recipes import few_tasks, tuning_data
from transformers import LlamaConfig, LlamaForCausalLM
from warm_program import WarmProgram

from crosstask.callbacks import GeneralizationReport, PredictionWriter
from crosstask.callbacks.unfinished_predictions import find_unfinished, open_part
from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.lightning_modules import InstructionTuningModule
from crosstask.lightning_modules.evaluation.answers import Answer
from crosstask.lightning_modules.generation.decoding import Decoding


class Counts(InstructionTuningModule):
    """Counts what it answers, and stops the evaluation in its middle where it is told to."""

    answered: int = 0
    stop_after: int | None = None

    def _answers(self, batch: Any) -> list[Answer]:
        if self.stop_after is not None and self.answered >= self.stop_after:
            raise KeyboardInterrupt
        found = super()._answers(batch)
        self.answered += len(found)
        return found


def evaluate(
    data: InstructionTuningDataModule, tiny_model: dict[str, Any], folder: Path, **settings: Any
) -> tuple[Counts, str]:
    """A test run in a folder: the module, and its predictions; the same weights each time."""
    L.seed_everything(settings.pop("weights", 0))
    stop_after = settings.pop("stop_after", None)
    module = Counts(data.tokenizer_name, config=tiny_model, row_length=128, **settings)
    module.stop_after = stop_after
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[PredictionWriter(), GeneralizationReport()],
    )
    try:
        trainer.test(module, data, verbose=False)
    except (KeyboardInterrupt, SystemExit):
        return module, ""
    return module, (folder / "predictions/test.jsonl").read_text(encoding="utf-8")


@pytest.fixture
def benchmark(toybench: Path, tmp_path: Path) -> NaturalInstructions:
    """Ten tasks of the embedded benchmark, and one of two labels."""
    splits = few_tasks(toybench, tmp_path / "splits", trained=8)
    with open(f"{splits}/test_tasks.txt", "a") as file:
        file.write("task075_toy_has_animals\n")
    return NaturalInstructions(str(toybench), splits)


def test_a_run_resumes_from_what_an_interrupted_one_answered(
    make_datamodule: Callable[..., InstructionTuningDataModule],
    benchmark: NaturalInstructions,
    tiny_model: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Ranked and written answers, at two numbers of shots; also where a line was cut off in its middle."""

    def data() -> InstructionTuningDataModule:
        evaluation = {"ranking": OptionRanking(labels=2), "shots": [0, 1], "batch_tokens": 300}
        return make_datamodule(benchmark=benchmark, evaluation=evaluation, instances={"test": 6})

    whole, expected = evaluate(data(), tiny_model, tmp_path / "whole")
    assert {"options" in json.loads(line) for line in expected.splitlines()} == {True, False}
    for stop_after in (2, whole.answered // 2):
        folder = tmp_path / f"after_{stop_after}"
        broken, nothing = evaluate(data(), tiny_model, folder, stop_after=stop_after)
        assert not nothing
        (part,) = (folder / "predictions").glob(".test-0.part")
        part.write_text(part.read_text(encoding="utf-8")[:-20], encoding="utf-8")
        second, predictions = evaluate(data(), tiny_model, folder)
        assert predictions == expected
        reports = [(run / "report/test/report.json").read_text() for run in (tmp_path / "whole", folder)]
        assert reports[0] == reports[1]
        # What was not answered, and the batch whose last line was cut off.
        left = whole.answered - broken.answered
        assert left < second.answered <= left + 24
        assert not list((folder / "predictions").glob(".*"))


@pytest.mark.parametrize("other", ["weights", "decoding", "prompts"])
def test_another_runs_predictions_are_not_reused(
    other: str,
    make_datamodule: Callable[..., InstructionTuningDataModule],
    benchmark: NaturalInstructions,
    tiny_model: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    few: dict[str, Any] = {"benchmark": benchmark, "instances": {"test": 8}}
    data = make_datamodule(evaluation={"batch_tokens": 300}, **few)
    broken, _ = evaluate(data, tiny_model, tmp_path, stop_after=4)
    assert broken.answered >= 4
    changed: dict[str, Any] = {"weights": {"weights": 1}, "decoding": {"decoding": Decoding(stop=(" ",))}}.get(
        other, {}
    )
    if other == "prompts":
        data = make_datamodule(evaluation={"batch_tokens": 300, "shots": 1}, **few)
    with caplog.at_level("INFO"):
        second, _ = evaluate(data, tiny_model, tmp_path, **changed)
    assert second.answered == len(data.evaluation_examples("test"))
    assert f"cannot be resumed ({other} differ): evaluating from the start" in caplog.text


def test_a_run_that_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "version_0/predictions"
    folder.mkdir(parents=True)
    part = open_part(folder / ".test-0.part", {"weights": "a"}, ['{"number": 3}'])
    with pytest.raises(ValueError, match="another run is writing"):
        find_unfinished(folder, "test", {"weights": "a"}, beside=True)
    beside = tmp_path / "version_1/predictions"
    assert not find_unfinished(beside, "test", {"weights": "a"}, beside=True).lines
    part.close()
    assert find_unfinished(beside, "test", {"weights": "a"}, beside=True).lines == {3: '{"number": 3}'}
    assert not find_unfinished(beside, "test", {"weights": "b"}, beside=True).lines


@pytest.fixture(scope="module")
def recipe(toybench: Path, tiny_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test of two shots, whose options are ranked in some tasks."""
    folder = tmp_path_factory.mktemp("continued")
    config = LlamaConfig(**{key: value for key, value in tiny_model.items() if key != "model_type"}, vocab_size=600)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    return write_recipe(folder, toybench)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, program: WarmProgram) -> Path:
    """The folder of an undisturbed run of one process."""
    done = program.run(*words_of_test(recipe, "whole", 1))
    assert not done.returncode, done.stderr
    return recipe.parent / "whole/version_0"


@pytest.mark.distributed
@pytest.mark.parametrize(("processes", "then"), [(1, 1), (2, 2), (2, 1)])
def test_a_killed_run_ends_in_the_report_of_an_undisturbed_one(
    processes: int, then: int, recipe: Path, undisturbed: Path, program: WarmProgram
) -> None:
    """SIGKILL in the middle: the next version of the run finds what the last one answered, on fewer processes, too."""
    name = f"killed-{processes}-{then}"
    interrupted = program.start_ranks(processes, *words_of_test(recipe, name, processes))
    parts = recipe.parent / name / "version_0/predictions"
    deadline = time.monotonic() + 240
    while lines_in(parts) < 40:
        assert time.monotonic() < deadline
        assert interrupted[0].poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    for process in interrupted:
        process.send_signal(signal.SIGKILL)
        process.finish()
    known = lines_in(parts)
    ranks = program.ranks(then, *words_of_test(recipe, name, then))
    assert not any(done.returncode for done in ranks), ranks[0].stderr[-4000:]
    output = "".join(done.stdout + done.stderr for done in ranks)
    runs = (undisturbed, recipe.parent / name / "version_1")
    whole, resumed = ((run / "predictions/test.jsonl").read_text(encoding="utf-8") for run in runs)
    assert resumed == whole
    report, resumed_report = ((run / "report/test/report.json").read_text() for run in runs)
    assert resumed_report == report
    assert f"resuming: {known} of {len(whole.splitlines())} predictions are in" in output
    answered = sum(int(line.rpartition(" ")[2]) for line in output.splitlines() if line.startswith("prompts answered"))
    assert len(whole.splitlines()) - known <= answered < len(whole.splitlines())
    assert not list(parts.glob(".*"))


def write_recipe(folder: Path, toybench: Path) -> Path:
    recipe: dict[str, Any] = {
        "trainer": {
            "accelerator": "cpu",
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": ".", "name": ""}},
            "callbacks": [
                {"class_path": "GeneralizationReport"},
                {"class_path": "PredictionWriter"},
                {"class_path": "counted_answers.CountAnswers"},
            ],
            "enable_progress_bar": False,
        },
        "model": {
            "class_path": "InstructionTuningModule",
            "init_args": {"pretrained": str(folder / "model")},
        },
        "data": tuning_data(
            toybench,
            rows={"length": 192},
            evaluation={
                "max_new_tokens": 24,
                "batch_tokens": 800,
                "shots": [0, 1],
                "ranking": {"labels": 12},
            },
            instances={"test": 6, "validation": 0},
        ),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def words_of_test(recipe: Path, name: str, processes: int) -> list[str]:
    """Words of a test whose results are in a folder of a name."""
    words = ["test", "--config", str(recipe), "--trainer.devices", str(processes)]
    words += ["--trainer.strategy", "ddp"] if processes > 1 else []
    return [*words, "--trainer.logger.init_args.save_dir", str(recipe.parent / name)]


def lines_in(folder: Path) -> int:
    """Predictions on disk, whole lines."""
    texts = [path.read_text(encoding="utf-8") for path in folder.glob(".test-*.part")]
    return sum("number" in json.loads(line) for text in texts for line in text.split("\n")[:-1])
