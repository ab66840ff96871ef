"""One of two processes is killed: the other one ends soon, its rank is named, and the restarted job goes on exactly."""

import json
import os
import re
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

NAMES = ["ddp", "fsdp2"]
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


def test_the_other_process_ends_and_the_restarted_job_goes_on(recipe: Path, program: WarmProgram) -> None:
    folder = recipe.parent
    for name in NAMES:
        died = folder / f"{name}_died"
        words = fit(recipe, f"{name}_killed", *TWO, *STRATEGIES[name], "--trainer.callbacks+=signalled_runs.Dies")
        words += [f"--trainer.callbacks.{key}={value}" for key, value in (("step", DIED_AT), ("rank", KILLED))]
        ended = by_torchrun([{"words": [*words, f"--trainer.callbacks.file={died}"]}], folder)
        assert ended.returncode != 0
        assert time.time() - died.stat().st_mtime < GRACE, name
        assert re.search(rf"rank\s*: {KILLED} .*\n\s*exitcode\s*: -9 ", ended.stderr), ended.stderr[-2000:]
    commands = []
    for name in NAMES:
        words = [*TWO, *STRATEGIES[name]]
        commands.append({"words": fit(recipe, f"{name}_whole", *words)})
        last = f"--ckpt_path={folder}/{name}_killed/step={DIED_AT - 1}.ckpt"
        commands.append({"words": fit(recipe, f"{name}_restarted", *words, last)})
    run_on(program, 2, commands, folder)
    for name in NAMES:
        whole, restarted = (losses(folder / f"run/{name}_{run}") for run in ("whole", "restarted"))
        assert len(whole) == STEPS
        assert restarted == whole[DIED_AT - 1 :], name
