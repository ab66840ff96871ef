"""The page on learned instructions, followed: a hypergradient, an instruction and a split of a user's project."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from quadratics import POSITIVE, close, quadratic

import crosstask
from crosstask.cli import main
from crosstask.commands.export import export_checkpoint
from crosstask.commands.shared.trainer import run_trainer
from crosstask.lightning_modules.hypergradients import unreduced
from crosstask.lightning_modules.instructions.stored_instructions import read_instructions

PAGE = Path(crosstask.__file__).parent / "docs/learned_instructions.md"


def one_step_is_the_identity() -> None:
    """The page's hypergradient on a quadratic: -rate B' v, as that of `identity` without the direct term."""
    one_step = import_module("my_methods").one_step
    q = quadratic(POSITIVE)
    result = one_step([q.inner], [q.outer], q.theta, q.phi, reduce=unreduced, rate=0.3)
    close(result.gradients[0], q.answer(0.3 * torch.eye(6, dtype=torch.float64)) - q.direct, atol=1e-8)


def test_a_method_is_added_by_following_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.read_text().split("## Add a method of your own")[1].split("\n## ")[0]
    [code], [settings] = (re.findall(f"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "yaml"))
    (tmp_path / "my_methods.py").write_text(code)
    (tmp_path / "my_methods.yaml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    main(["toybench", "--folder", "runs/instruction_optimization/toybench", "--instances", "130"])
    small = {"max_steps": 4, "limit_val_batches": 0, "enable_progress_bar": False, "logger": False}
    words = [f"--trainer.{name}={value}" for name, value in small.items()]
    words += ["--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {dirpath: kept, save_last: true}}]"]
    words += ["--data.init_args.levels.inner_steps=2", "--data.init_args.levels.inner_rows=2"]
    words += ["--data.init_args.levels.outer_rows=2", "--model.init_args.optimizer.warmup=1"]
    cli = run_trainer(["fit", "--config", "instruction_optimization_toybench", "--config", "my_methods.yaml", *words])
    module: Any = cli.model
    assert type(module.instruction).__name__ == "LowRankEmbedder"
    assert (module.outer_step, module.instruction.tasks.shape[2]) == (2, 2)
    inner, outer = cli.datamodule.task_levels
    assert len(outer) == -(-(len(inner) + len(outer)) // 5)
    # (M + 1) v of the preset would have another length: p has the length of the page's option.
    assert module.method.options == {"length": 0.01}
    whole = "{gradient: my_methods.one_step, options: {rate: 0.01}}"
    assert f"outer: {whole}" in section
    again = [*words, "--trainer.callbacks=[]", "--trainer.enable_checkpointing=false"]
    again += [f"--model.init_args.outer={whole}"]
    cli = run_trainer(["fit", "--config", "instruction_optimization_toybench", "--config", "my_methods.yaml", *again])
    assert cli.model.outer_step == 2
    assert 0 < cli.trainer.callback_metrics["train/hypergradient_norm"] < float("inf")
    one_step_is_the_identity()
    export_checkpoint(["kept/last.ckpt", "exported"])
    stored = read_instructions(Path("exported"))
    assert stored.description["kind"] == "my_methods.LowRankEmbedder"
    assert set(stored.values) == {"tasks", "shared"}
