"""Commands that a signal interrupts: a checkpoint, an exit status, and no traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from live_processes import processes_with, within
from signalled_runs import fit_words, write_recipe
from warm_program import Death, WarmProgram


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, toybench: Path, tiny_model: dict[str, Any]) -> Path:
    return write_recipe(tmp_path_factory.mktemp("interruptions"), toybench, tiny_model)


def interrupted(
    program: WarmProgram, words: list[str], number: signal.Signals, begun: Callable[[], bool]
) -> subprocess.CompletedProcess[str]:
    """A command that receives a signal once something is true."""
    running = program.start(*words)
    while not begun() and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(number)
    return running.finish(timeout=120)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_leaves_a_checkpoint_and_an_exit_status(
    program: WarmProgram, recipe: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """Ctrl-C is a signal, too; `fit && test` must not test the model of an interrupted training."""
    checkpoints, metrics = tmp_path / "checkpoints", recipe.parent / "run" / f"at_{number.name}" / "metrics.csv"
    words = [*fit_words(recipe, f"at_{number.name}"), f"--trainer.callbacks.init_args.dirpath={checkpoints}"]
    words += ["--trainer.max_steps=100000", "--trainer.val_check_interval=100000"]
    done = interrupted(program, words, number, lambda: metrics.is_file() and metrics.stat().st_size > 500)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert torch.load(checkpoints / "last.ckpt", weights_only=False)["global_step"] > 2


@pytest.mark.parametrize(
    ("command", "stage", "number", "status", "sentence"),
    [
        ("test", "test", signal.SIGTERM, 143, "crosstask: terminated"),
        ("validate", "validation", signal.SIGINT, 130, "crosstask: interrupted"),
        ("predict", "predict", signal.SIGTERM, 143, "crosstask: terminated"),
    ],
)
def test_an_interrupted_evaluation_keeps_its_predictions(
    program: WarmProgram,
    recipe: Path,
    tmp_path: Path,
    command: str,
    stage: str,
    number: signal.Signals,
    status: int,
    sentence: str,
) -> None:
    """Lightning's own handlers end an evaluation with status 1, or after its batch, or not at all."""
    words = [command, "--config", str(recipe), "--ckpt_path=null", f"--trainer.logger.init_args.version={command}"]
    words += ["--trainer.callbacks+=PredictionWriter", f"--trainer.callbacks.folder={tmp_path}"]
    words += ["--data.instances.validation=100", "--data.evaluation.batch_tokens=200"]
    part = tmp_path / f".{stage}-0.part"
    done = interrupted(program, words, number, lambda: part.is_file() and part.read_text().count("\n") > 2)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (status, sentence)
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [part.name]
    assert all("prediction" in json.loads(line) for line in part.read_text().splitlines()[1:-1])


@pytest.mark.parametrize("command", ["fit", "test"])
def test_sigterm_ends_a_run_before_its_first_batch(
    program: WarmProgram, recipe: Path, tmp_path: Path, command: str
) -> None:
    """The benchmark may be prepared for hours before it."""
    store, counted = tmp_path / "store", tmp_path / "changes"
    words = [*fit_words(recipe, "early")[1:], f"--trainer.default_root_dir={tmp_path}", f"--data.cache={store}"]
    words += ["--ckpt_path=null", f"--trainer.callbacks.init_args.dirpath={tmp_path / 'checkpoints'}"]
    death = Death(str(store), 20, 0.0, str(counted), signal.SIGTERM)
    done = program.start(command, *words, death=death).finish()
    assert (done.returncode, done.stderr.splitlines()[-1]) == (143, "crosstask: terminated")
    assert "Traceback" not in done.stderr
    assert not list(store.glob(".*"))


def test_an_interrupted_command_ends_without_a_traceback(program: WarmProgram, recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ["prepare", "--config", str(recipe), f"--data.cache={store}", "--processes=2"]
    done = interrupted(program, words, signal.SIGINT, lambda: any(store.glob("[!.]*")))
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_sigterm_removes_what_is_half_written(program: WarmProgram, recipe: Path, tmp_path: Path) -> None:
    """The system's own way of ending a process leaves hidden folders in a store, which nobody removes."""
    store = tmp_path / "store"
    words = ["prepare", "--config", str(recipe), f"--data.cache={store}"]
    done = interrupted(program, words, signal.SIGTERM, lambda: any(store.glob("[!.]*")))
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1] == "crosstask: terminated"
    assert "Traceback" not in done.stderr
    assert not list(store.glob(".*"))


def test_a_command_that_is_started_ends_first(tmp_path: Path) -> None:
    """As the training of a sweep, which writes a checkpoint when it is terminated."""
    code = (
        "import signal, sys, time\n"
        "from crosstask.commands.shared.program_end import end_on_sigterm\n"
        "from crosstask.datamodules.worker_processes import run_command\n"
        "end_on_sigterm()\n"
        "if len(sys.argv) == 2:\n"
        "    run_command([sys.executable, __file__, sys.argv[1], 'inner'])\n"
        "try:\n"
        "    open(sys.argv[1] + '/begun', 'w').close()\n"
        "    time.sleep(60)\n"
        "finally:\n"
        "    time.sleep(0.5)\n"
        "    open(sys.argv[1] + '/checkpoint', 'w').close()\n"
    )
    (tmp_path / "started.py").write_text(code)
    running = subprocess.Popen([sys.executable, str(tmp_path / "started.py"), str(tmp_path)])
    assert within(60, (tmp_path / "begun").is_file), "it has not begun"
    running.terminate()
    assert running.wait(timeout=30) == 143
    assert (tmp_path / "checkpoint").is_file()


@pytest.mark.distributed
def test_the_other_process_ends_with_the_first(recipe: Path, tmp_path: Path) -> None:
    """Lightning starts it as a copy of the first one; it would wait in a collective."""
    words = [*fit_words(recipe, "two"), f"--trainer.callbacks.init_args.dirpath={tmp_path}", "--trainer.strategy=ddp"]
    words += ["--trainer.devices=2", "--trainer.max_steps=100000", "--trainer.val_check_interval=100000"]
    metrics = recipe.parent / "run" / "two" / "metrics.csv"
    environment = {**os.environ, "CROSSTASK_TEST_RUN": str(tmp_path)}
    command = [sys.executable, "-m", "crosstask.cli", *words]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert within(120, metrics.is_file), "no step was logged"
    assert len(processes_with(f"CROSSTASK_TEST_RUN={tmp_path}")) == 2
    running.kill()
    running.wait()
    assert within(20, lambda: not processes_with(f"CROSSTASK_TEST_RUN={tmp_path}"))


def test_a_control_sequence_in_a_log_is_shown(tmp_path: Path) -> None:
    code = (
        "import logging, warnings\n"
        "from crosstask.commands.shared.library_messages import show_hidden_characters\n"
        "show_hidden_characters()\n"
        "logging.warning('task %s', chr(27) + '[2J')\n"
        "warnings.warn('task ' + chr(155) + '2J')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("⟨U+001B⟩") == 1
    assert done.stderr.count("⟨U+009B⟩") == 1
    assert not set(done.stderr) & {chr(27), chr(155)}
