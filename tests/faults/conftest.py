"""Fixtures: runs that faults disturb, written and finished once without a fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_cases import Faults, Undisturbed
from fault_runs import write_runs
from fault_table import Recorder
from warm_program import Death, WarmProgram


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict[str, Any], program: WarmProgram
) -> Callable[[str], Undisturbed]:
    """The undisturbed run of a name."""
    home = tmp_path_factory.mktemp("faults")
    runs, finished = write_runs(home, toybench, tiny_model), {}

    def finish(name: str) -> Undisturbed:
        if name not in finished:
            folder = home / name
            folder.mkdir(exist_ok=True)
            counted = home / f"{name}.changes"
            process = program.start(*runs[name].words(folder, 0), death=Death(str(folder), -1, 0, str(counted)))
            done = process.finish()
            assert done.returncode == 0, done.stderr[-3000:]
            finished[name] = Undisturbed(runs[name], folder, runs[name].result(folder), counted.stat().st_size)
        return finished[name]

    return finish


@pytest.fixture
def faults(
    program: WarmProgram,
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
    fault_seed: int,
    record_fault: Recorder,
) -> Faults:
    """A test runs once for every case."""
    return Faults(program, undisturbed, tmp_path, fault_seed, record_fault)
