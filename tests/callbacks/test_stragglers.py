"""Slow and missing ranks: measurements of a real run, and a stall that is reported while it lasts."""

import csv
import json
import logging
from pathlib import Path

import pytest
import yaml
from bilevel_runs import Make, trainer
from recipes import tuning_data
from slow_steps import SlowSteps

from crosstask.callbacks.stragglers import STAGES, ProgressReport, StepTimes, Stragglers, missing_ranks, slow_ranks
from crosstask.cli import main


def test_a_run_logs_its_waits_and_tells_of_a_stall(
    toybench: Path, tmp_path: Path, tiny_model: dict, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 3,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "log_every_n_steps": 1,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": None}},
            "callbacks": [
                {"class_path": "Stragglers", "init_args": {"every": 1, "stall_after": 0.4}},
                {"class_path": "slow_steps.SlowSteps", "init_args": {"seconds": 1.2}},
            ],
        },
        "model": {
            "class_path": "InstructionTuningModule",
            "init_args": {"config": tiny_model, "optimizer": {"warmup": 0}},
        },
        "data": tuning_data(toybench, rows={"per_step": 2}),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with caplog.at_level(logging.ERROR):
        main(["fit", "--config", str(tmp_path / "recipe.yaml")])
    assert "all ranks are in forward of batch" in caplog.text
    with open(tmp_path / "version_0/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    slow = [float(row["stragglers/work_longest"]) for row in rows if row.get("stragglers/work_longest")]
    assert len(slow) == 3
    assert min(slow) > 1.2
    assert max(float(row["stragglers/data_wait_longest"]) for row in rows) < 1.2
    assert json.loads((tmp_path / "version_0/progress/00000.json").read_text())[1] in STAGES


def test_the_work_of_instruction_optimization_is_timed_too(make_bilevel: Make, tmp_path: Path) -> None:
    fitted = trainer(
        4, callbacks=[Stragglers(every=2), SlowSteps(0.1)], enable_checkpointing=False, default_root_dir=str(tmp_path)
    )
    fitted.fit(*make_bilevel())
    assert 0.1 < fitted.callback_metrics["stragglers/work_longest"] < 5


def test_the_slow_rank_is_named_and_even_work_is_not() -> None:
    even = [StepTimes(0.1, 1.0, "n1")] * 4
    assert slow_ranks(even, factor=1.5) == []
    assert "rank 2 on n2" in slow_ranks([*even[:2], StepTimes(2.0, 1.0, "n2"), even[0]], factor=1.5)[0]


def test_a_rank_without_any_report_is_named() -> None:
    here = ProgressReport(3, "backward", since=10.0, written=20.0, host="n1")
    assert "no report ever: ranks [1]" in missing_ranks([here, None], 20.0, silent_after=60.0)
