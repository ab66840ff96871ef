"""The wheel, installed in an environment away from the repository, runs the quickstart by the names of its commands."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import crosstask

ROOT = Path(crosstask.__file__).parent
SHORT = [
    "--trainer.max_steps",
    "2",
    "--trainer.val_check_interval",
    "2",
    "--trainer.num_sanity_val_steps",
    "0",
    "--model.init_args.optimizer.warmup",
    "1",
]
FEW = [
    "--data.init_args.instances.test",
    "1",
    "--data.init_args.instances.validation",
    "1",
    "--data.init_args.evaluation.max_new_tokens",
    "4",
]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel, which takes the libraries from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "__pycache__", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)  # a build writes into its source
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")], folder)
    run([sys.executable, "-m", "venv", "--without-pip", "env"], folder)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    # Read before the libraries of this environment, of which an editable crosstask may be one.
    (wheel,) = folder.glob("crosstask-*.whl")
    run([*pip, "--python", str(folder / "env/bin/python"), "install", *offline, str(wheel)], folder)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env/bin"


def test_the_quickstart_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run([str(installed / "python"), "-c", "import crosstask; print(crosstask.__file__)"], tmp_path).stdout
    assert Path(where.strip()).is_relative_to(installed.parent)
    program = str(installed / "crosstask")
    run([program, "toybench", "--folder", "runs/quickstart/toybench", "--instances", "130"], tmp_path)
    checkpoint = tmp_path / "runs/quickstart/checkpoints/last.ckpt"
    fit, test = ([command, "--config", "quickstart", *SHORT, *FEW] for command in ("fit", "test"))
    both = f"from crosstask.cli import main; main({fit}); main({[*test, '--ckpt_path', str(checkpoint)]})"
    done = run([str(installed / "python"), "-c", both], tmp_path)  # in one process: a start takes 10 s
    assert checkpoint.exists()
    assert list(tmp_path.glob("runs/quickstart/version_*/report/test/report.html"))
    assert "accelerator to" not in done.stdout + done.stderr, "DeepSpeed logs where nothing uses it"


def test_the_wheel_holds_all_configurations(installed: Path) -> None:
    (package,) = installed.parent.glob("lib/python*/site-packages/crosstask")
    shipped = {path.relative_to(package) for path in (package / "configs").rglob("*") if path.is_file()}
    assert shipped == {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert (package / "py.typed").exists()
