"""A flipped bit in a file that the program has written or reads: repaired, or reported in a sentence."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_table import Recorder
from warm_program import WarmProgram


def flip(folder: Path, pattern: str, dice: random.Random) -> Path:
    """Flip a bit of one of the files that match a pattern, and return the file."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size)
    assert files, f"nothing in {folder} matches {pattern}"
    path = dice.choice(files)
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    return path


def require_no_traceback(done: Any, path: Path) -> None:
    """Require that a command finished, or ended with a sentence."""
    assert "Traceback" not in done.stderr + done.stdout, f"{path}\n{done.stdout[-500:]}{done.stderr[-3000:]}"
    assert done.returncode in (0, 1), (path, done.returncode, done.stderr[-1000:])


WRITTEN = {
    "fit, tuning": ["checkpoints/last.ckpt"],
    "fit, scorer": ["checkpoints/last.ckpt"],
    "fit, optimization": ["checkpoints/last.ckpt"],
    "samples": ["samples/*"],
    "adapt": ["adapt/tasks/*", "adapt/report.json"],
}


@pytest.mark.faults
@pytest.mark.parametrize(("name", "pattern"), [(name, each) for name, some in WRITTEN.items() for each in some])
def test_a_file_that_a_command_reads_back(
    name: str,
    pattern: str,
    fault_seed: int,
    undisturbed: Callable[[str], Any],
    program: WarmProgram,
    tmp_path: Path,
    record_fault: Recorder,
) -> None:
    whole = undisturbed(name)
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    path = flip(folder, pattern, random.Random(f"{name} {pattern} {fault_seed}"))
    record_fault(f"flipped bit: {name}, {pattern}", tried=1)
    require_no_traceback(program.run(*whole.run.words(folder, 9)), path)
    record_fault(f"flipped bit: {name}, {pattern}", survived=1)


@pytest.mark.faults
def test_a_file_of_the_store_is_written_again(
    fault_seed: int,
    undisturbed: Callable[[str], Any],
    program: WarmProgram,
    tmp_path: Path,
    record_fault: Recorder,
) -> None:
    whole = undisturbed("prepare")
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    path = flip(folder, "store/*/*", random.Random(f"store {fault_seed}"))
    record_fault("flipped bit: prepare --verify", tried=1)
    done = program.run(*whole.run.words(folder, 0), "--verify=true")
    assert done.returncode == 0, f"{path}\n{done.stderr[-3000:]}"
    assert whole.run.result(folder) == whole.result, path
    record_fault("flipped bit: prepare --verify", survived=1)


@pytest.mark.faults
def test_predictions_are_reported_or_rejected(
    fault_seed: int,
    undisturbed: Callable[[str], Any],
    program: WarmProgram,
    tmp_path: Path,
    record_fault: Recorder,
) -> None:
    whole = undisturbed("test")
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    path = flip(folder, "version_*/predictions/*", random.Random(f"predictions {fault_seed}"))
    record_fault("flipped bit: report", tried=1)
    run = next(folder.glob("version_*"))
    require_no_traceback(program.run("report", str(run), "--folder", str(tmp_path / "report")), path)
    record_fault("flipped bit: report", survived=1)


@pytest.mark.faults
@pytest.mark.parametrize("pattern", ["tasks/*.json", "splits/*/*", "tokenizer/*"])
def test_a_file_of_a_benchmark(
    pattern: str, fault_seed: int, toybench: Path, program: WarmProgram, tmp_path: Path, record_fault: Recorder
) -> None:
    folder = tmp_path / "toybench"
    shutil.copytree(toybench, folder)
    path = flip(folder, pattern, random.Random(f"{pattern} {fault_seed}"))
    record_fault(f"flipped bit: benchmark, {pattern}", tried=1)
    data = f"--data.benchmark.init_args.folder={folder}", f"--data.tokenizer={folder / 'tokenizer'}"
    words = ["--data=InstructionTuningDataModule", "--data.benchmark=NaturalInstructions", *data]
    done = program.run("prepare", *words, f"--data.cache={tmp_path / 'store'}", "--data.rows.length=128")
    require_no_traceback(done, path)
    record_fault(f"flipped bit: benchmark, {pattern}", survived=1)
