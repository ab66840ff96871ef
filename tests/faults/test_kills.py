"""Commands that are killed, several times in a row, and started again: their results equal undisturbed ones."""

import signal

import pytest
from fault_cases import Faults
from warm_program import Death

KILLS = 2
RUNS = ["fit, tuning", "fit, scorer", "fit, optimization", "prepare", "test", "samples", "adapt"]


@pytest.mark.faults
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_has_the_result_of_an_undisturbed_one(name: str, faults: Faults) -> None:
    """Killed at changes of its files, and shortly after them, so within checkpoints and files that are written."""
    whole, dice, folder = faults.undisturbed(name), faults.dice(name), faults.folder / "run"
    folder.mkdir()
    killed = 0
    for start in range(KILLS):
        delay = dice.choice([0.0, dice.random() * 0.05])
        death = Death(str(folder), dice.randrange(whole.changes), delay, str(faults.folder / "changes"))
        done = faults.program.start(*whole.run.words(folder, start), death=death).finish()
        assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
        killed += done.returncode != 0
    with faults.counted(f"killed: {name}", killed):
        done = faults.program.run(*whole.run.words(folder, KILLS))
        assert done.returncode == 0, done.stderr[-3000:]
        assert whole.run.result(folder) == whole.result
