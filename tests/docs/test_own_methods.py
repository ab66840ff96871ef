"""The page on learned instructions, followed: a hypergradient, an instruction and a split of a user's project."""

import json
import re
from functools import partial
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
from crosstask.datamodules.optional_packages import missing_package
from crosstask.lightning_modules.hypergradients import exact, hypergradient, unreduced
from crosstask.lightning_modules.instructions.stored_instructions import read_instructions
from crosstask.lightning_modules.named_classes import imported

PAGE = Path(crosstask.__file__).parent / "docs/learned_instructions.md"


def one_step_is_the_identity() -> None:
    """The page's hypergradient on a quadratic: -rate B' v, as that of `identity` without the direct term."""
    one_step = import_module("my_methods").one_step
    q = quadratic(POSITIVE)
    result = one_step([q.inner], [q.outer], q.theta, q.phi, reduce=unreduced, rate=0.3)
    close(result.gradients[0], q.answer(0.3 * torch.eye(6, dtype=torch.float64)) - q.direct, atol=1e-8)


def heavy_ball_solves_with_the_hessian() -> None:
    """The page's method on a quadratic, after many steps: H^-1 v."""
    q = quadratic(POSITIVE)
    method = partial(import_module("my_methods").heavy_ball, gamma=0.5, momentum=0.3, steps=100)
    result = hypergradient(method, q.inner, q.outer, q.theta, q.phi, curvature=exact)
    close(result.gradients[0], q.answer(torch.linalg.inv(q.H)), atol=1e-10)
    assert result.diagnostics.hessian_products == 100


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
    assert module.method.options == {"gamma": 1e-5, "momentum": 0.5, "steps": 1}
    assert cli.trainer.callback_metrics["train/hessian_products"] == 1  # the preset, fast, has none
    whole = "{gradient: my_methods.one_step, options: {rate: 0.01}}"
    assert f"outer: {whole}" in section
    again = [*words, "--trainer.callbacks=[]", "--trainer.enable_checkpointing=false"]
    again += [f"--model.init_args.outer={whole}"]
    cli = run_trainer(["fit", "--config", "instruction_optimization_toybench", "--config", "my_methods.yaml", *again])
    assert cli.model.outer_step == 2
    assert 0 < cli.trainer.callback_metrics["train/hypergradient_norm"] < float("inf")
    one_step_is_the_identity()
    heavy_ball_solves_with_the_hessian()
    export_checkpoint(["kept/last.ckpt", "exported"])
    stored = read_instructions(Path("exported"))
    assert stored.description["kind"] == "my_methods.LowRankEmbedder"
    assert set(stored.values) == {"tasks", "shared"}
    # The further commands, with the same files.
    both = ["--config", "instruction_optimization_toybench", "--config", "my_methods.yaml", *words]
    resumed = run_trainer(["fit", *both, "--trainer.max_steps=6", "--ckpt_path", "kept/last.ckpt"])
    assert (resumed.trainer.global_step, resumed.model.outer_step) == (6, 3)
    main(["test", *both, "--ckpt_path", "kept/last.ckpt", "--trainer.limit_test_batches=1"])
    main(["instructions", *both, "--checkpoint", "kept/last.ckpt", "--folder", "drawn"])
    assert set(json.loads(Path("drawn/analysis.json").read_text())) == {"step", "human", "learned"}
    start = "--model.init_args.instruction.start"
    frozen = ["--trainer.callbacks=[]", "--trainer.enable_checkpointing=false", f"{start}.frozen=true"]
    applied = run_trainer(["fit", *both, *frozen, f"{start}.stored=exported"]).model.instruction
    for name, value in stored.values.items():
        assert torch.equal(applied.state_dict()[name], value)


def test_a_module_that_python_does_not_find_is_named_without_advice_to_install_it() -> None:
    with pytest.raises(ValueError, match=r"No module named 'my_project'.*\(PYTHONPATH\)") as caught:
        imported("my_project.methods.own", "outer.method")
    assert missing_package(caught.value) is None
