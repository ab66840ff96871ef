"""One of two processes is killed: the other one ends soon, its rank is named, and the restarted job goes on exactly."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import STRATEGIES, WORKER, losses, run_on
from recipes import save_model
from strategy_runs import STEPS, TWO, fit, write_recipe
from warm_program import WarmProgram

from crosstask.datamodules.rendering.tokenization import load_tokenizer

pytestmark = pytest.mark.distributed

KILLED, DIED_AT = 1, 3
GRACE = 60.0  # seconds; torchrun waits 30 for a process that it has told to end


def by_torchrun(commands: list[dict[str, Any]], folder: Path) -> "subprocess.CompletedProcess[str]":
    """The ended start of commands on two processes, by the launcher that people use."""
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    found = os.pathsep.join([str(Path(processes.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    words = [*launcher, sys.executable, "-c", WORKER, str(path)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=250, check=False)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, toybench: Path) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    weights = save_model("opt", folder, len(load_tokenizer(str(toybench / "tokenizer"))))
    optimizer = {"learning_rate": 0.01, "warmup": 2}
    arguments = {"pretrained": str(weights), "optimizer": optimizer, "network": {"dropout": 0.1}}
    model = {"class_path": "InstructionTuningModule", "init_args": arguments}
    return write_recipe(folder / "opt.yaml", toybench, model, {})


def dying(recipe: Path, name: str) -> tuple[dict[str, Any], Path]:
    """The command of a fit whose second process is killed, and the file that this process writes then."""
    died = recipe.parent / f"{name}_died"
    words = fit(recipe, f"{name}_killed", *TWO, *STRATEGIES[name], "--trainer.callbacks+=signalled_runs.KillProcess")
    words += [f"--trainer.callbacks.{key}={value}" for key, value in (("step", DIED_AT), ("rank", KILLED))]
    return {"words": [*words, f"--trainer.callbacks.file={died}"]}, died


def require_exact_restarts(recipe: Path, names: list[str], program: WarmProgram) -> None:
    """Runs that resume from the checkpoint of a killed one have the losses of an undisturbed one."""
    folder, commands = recipe.parent, []
    for name in names:
        words = [*TWO, *STRATEGIES[name]]
        commands.append({"words": fit(recipe, f"{name}_whole", *words)})
        last = f"--ckpt_path={folder}/{name}_killed/step={DIED_AT - 1}.ckpt"
        commands.append({"words": fit(recipe, f"{name}_restarted", *words, last)})
    run_on(program, 2, commands, folder)
    for name in names:
        whole, restarted = (losses(folder / f"run/{name}_{run}") for run in ("whole", "restarted"))
        assert len(whole) == STEPS
        assert restarted == whole[DIED_AT - 1 :], name


def test_the_other_process_ends_and_the_restarted_job_goes_on(recipe: Path, program: WarmProgram) -> None:
    names = ["ddp", "fsdp2"]
    for name in names:
        command, died = dying(recipe, name)
        ended = by_torchrun([command], recipe.parent)
        assert ended.returncode != 0
        assert time.time() - died.stat().st_mtime < GRACE, name
        assert re.search(rf"rank\s*: {KILLED} .*\n\s*exitcode\s*: -9 ", ended.stderr), ended.stderr[-2000:]
    require_exact_restarts(recipe, names, program)


def test_under_zero_3_the_other_process_ends_by_itself(recipe: Path, program: WarmProgram) -> None:
    """Without a launcher that would end it: a collective fails once its partner is gone."""
    command, died = dying(recipe, "zero3")
    path = recipe.parent / "zero3.json"
    path.write_text(json.dumps([command]))
    first, second = program.start_ranks(2, "-c", WORKER, str(path), DS_ACCELERATOR="cpu")
    assert second.finish().returncode == -signal.SIGKILL
    ended = first.finish(timeout=GRACE)
    assert time.time() - died.stat().st_mtime < GRACE
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert "gloo" in ended.stdout + ended.stderr
    require_exact_restarts(recipe, ["zero3"], program)
