"""Commands that are killed, several times in a row, and started again: their results equal undisturbed ones."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_table import Recorder
from warm_program import Death, WarmProgram

KILLS = 2
RUNS = ["fit, tuning", "fit, scorer", "fit, optimization", "prepare", "test", "samples", "adapt"]


@pytest.mark.faults
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_has_the_result_of_an_undisturbed_one(
    name: str,
    fault_seed: int,
    undisturbed: Callable[[str], Any],
    program: WarmProgram,
    tmp_path: Path,
    record_fault: Recorder,
) -> None:
    """Killed at changes of its files, and shortly after them, so within checkpoints and files that are written."""
    whole = undisturbed(name)
    dice = random.Random(f"{name} {fault_seed}")
    folder = tmp_path / "run"
    folder.mkdir()
    killed = 0
    for start in range(KILLS):
        delay = dice.choice([0.0, dice.random() * 0.05])
        death = Death(str(folder), dice.randrange(whole.changes), delay, str(tmp_path / "changes"))
        done = program.start(*whole.run.words(folder, start), death=death).finish()
        assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
        killed += done.returncode != 0
    record_fault(f"killed: {name}", tried=killed)
    done = program.run(*whole.run.words(folder, KILLS))
    assert done.returncode == 0, done.stderr[-3000:]
    assert whole.run.result(folder) == whole.result
    record_fault(f"killed: {name}", survived=killed)
