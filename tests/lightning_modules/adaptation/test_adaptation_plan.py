"""What an adaptation costs, before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
from adapted_tasks import TASKS, answers, training

from crosstask.commands.adapt import adapt_tasks
from crosstask.datamodules import NaturalInstructions
from crosstask.lightning_modules.adaptation.adaptation_plan import TaskLoad, Trial, plan_adaptation
from crosstask.lightning_modules.adaptation.scorer_training import ScorerTraining


def test_a_plan_adds_up_what_tasks_and_scorers_cost() -> None:
    """Two scorers of 10 steps; the pairs of the second task have half the characters of the first's."""
    trial = Trial(prepare=0.5, start=2.0, step=1.0, pair=0.1, memory=100.0, storage=8.0, stored=2**20)
    loads = {"long": TaskLoad(4, 20, 200.0, 2**20), "short": TaskLoad(2, 40, 100.0, 2**20)}
    trainings = dict.fromkeys("ab", ScorerTraining(steps=10))
    plan = plan_adaptation(loads, dict.fromkeys("ab", trial), trainings, keep=True)
    assert plan.seconds == {"long": 2 * (2 + 2 + 10 + 2), "short": 2 * (2 + (1 + 10 + 4) / 2)}
    assert (plan.hours(1) * 3600, plan.hours(2) * 3600) == pytest.approx((51, 32))
    assert plan.disk["store of pairs"] == 2 * (4 + 2)
    assert plan.disk["scorers"] == 2 * 2 * 8.0
    assert "scorers" not in plan_adaptation(loads, {"a": trial}, trainings, keep=False).disk


def test_a_plan_is_printed_before_anything_is_trained(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark, out = NaturalInstructions(str(toybench)), tmp_path / "out"
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"test_examples": 4, "tasks": TASKS, "variants": {"ranked": {"loss": "pairwise"}}}
    adapt_tasks(benchmark, [file], str(out), training(toybench), plan=True, **options)
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 tasks to adapt, 0 finished; 60 training instances, 24 responses to choose among, 2 scorers" in printed
    assert (
        "hours by the number of devices like this one (processes of torchrun, srun or a job array): 1: 0.0" in printed
    )
    assert "ranked" in printed
    assert "store of pairs" in printed
    assert not out.exists()
