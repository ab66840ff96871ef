"""A flipped bit in a file that the program has written or reads: repaired, or reported in a sentence."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from fault_cases import Faults


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
def test_a_file_that_a_command_reads_back(name: str, pattern: str, faults: Faults) -> None:
    whole, folder = faults.copy(name)
    path = flip(folder, pattern, faults.dice(f"{name} {pattern}"))
    with faults.counted(f"flipped bit: {name}, {pattern}"):
        require_no_traceback(faults.program.run(*whole.run.words(folder, 9)), path)


@pytest.mark.faults
def test_a_file_of_the_store_is_written_again(faults: Faults) -> None:
    whole, folder = faults.copy("prepare")
    path = flip(folder, "store/*/*", faults.dice("store"))
    with faults.counted("flipped bit: prepare --verify"):
        done = faults.program.run(*whole.run.words(folder, 0), "--verify=true")
        assert done.returncode == 0, f"{path}\n{done.stderr[-3000:]}"
        assert whole.run.result(folder) == whole.result, path


@pytest.mark.faults
def test_predictions_are_reported_or_rejected(faults: Faults) -> None:
    _, folder = faults.copy("test")
    path = flip(folder, "version_*/predictions/*", faults.dice("predictions"))
    run = next(folder.glob("version_*"))
    with faults.counted("flipped bit: report"):
        done = faults.program.run("report", str(run), "--folder", str(faults.folder / "report"))
        require_no_traceback(done, path)


@pytest.mark.faults
@pytest.mark.parametrize("pattern", ["tasks/*.json", "splits/*/*", "tokenizer/*"])
def test_a_file_of_a_benchmark(pattern: str, toybench: Path, faults: Faults) -> None:
    folder = Path(shutil.copytree(toybench, faults.folder / "toybench"))
    path = flip(folder, pattern, faults.dice(pattern))
    data = f"--data.benchmark.init_args.folder={folder}", f"--data.tokenizer={folder / 'tokenizer'}"
    words = ["--data=InstructionTuningDataModule", "--data.benchmark=NaturalInstructions", *data]
    words += [f"--data.cache={faults.folder / 'store'}", "--data.rows.length=128"]
    with faults.counted(f"flipped bit: benchmark, {pattern}"):
        require_no_traceback(faults.program.run("prepare", *words), path)
