"""A long training with checkpoints: memory and open files do not grow."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_table import Recorder
from warm_program import WarmProgram

GROWTH = 24 * 2**20
"""Bytes by which the resident memory may grow after a third of the run: an allocator's noise is some megabytes."""


@pytest.mark.faults
def test_memory_and_open_files_stay_flat(
    undisturbed: Callable[[str], Any],
    program: WarmProgram,
    tmp_path: Path,
    record_fault: Recorder,
    request: pytest.FixtureRequest,
) -> None:
    steps = 200 * request.config.getoption("fault_cases")
    words = undisturbed("fit, tuning").run.words(tmp_path, 0)
    words += [f"--trainer.max_steps={steps}", f"--trainer.callbacks.init_args.every_n_train_steps={steps // 20}"]
    words += ["--trainer.callbacks+=resource_watch.ResourceWatch", f"--trainer.callbacks.every={steps // 20}"]
    words += [f"--trainer.callbacks.file={tmp_path / 'held.jsonl'}"]
    record_fault("steps of a long run", tried=steps)
    done = program.start(*words).finish(timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "held.jsonl").read_text().splitlines()]
    (_, begun, files), (last, ended, open_files) = lines[len(lines) // 3], lines[-1]
    assert last == steps
    assert ended - begun < GROWTH, lines
    assert open_files <= files, lines
    record_fault("steps of a long run", survived=steps)
