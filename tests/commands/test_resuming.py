"""`crosstask fit` resumes from the last step, on the stream of the checkpoint or on a changed one if it is told so."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import file_weights
from strategy_runs import fit, write_recipe

from crosstask.cli import main
from crosstask.commands.shared.trainer import run_trainer


@pytest.fixture
def recipe(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> Path:
    arguments = {"config": tiny_model, "optimizer": {"learning_rate": 0.01, "warmup": 1}}
    model = {"class_path": "InstructionTuningModule", "init_args": arguments}
    return write_recipe(tmp_path / "run.yaml", toybench, model, {})


@pytest.mark.parametrize(
    ("due", "last"),
    [
        (["every_n_train_steps=3"], 4),  # 4 steps: without the last one, step 3
        (["every_n_train_steps=500"], 4),
        (["every_n_train_steps=null", "train_time_interval=01:00:00"], 4),
    ],
)
def test_the_last_step_is_saved(due: list[str], last: int, recipe: Path, tmp_path: Path) -> None:
    words = [f"--trainer.callbacks.init_args.{each}" for each in due]
    cli = run_trainer(fit(recipe, "run", *words, "--trainer.callbacks.init_args.save_last=true"))
    path = tmp_path / "run/last.ckpt"
    assert torch.load(path, weights_only=False)["global_step"] == last
    for name, weight in file_weights(path).items():
        assert torch.equal(weight, cli.model.state_dict()[name]), name
    words += ["--trainer.callbacks.init_args.save_last=true", "--ckpt_path=last"]
    longer = run_trainer(fit(recipe, "run", *words, "--trainer.max_steps=6"))
    assert longer.trainer.global_step == 6
    assert torch.load(path, weights_only=False)["global_step"] == 6


def test_a_changed_stream_is_accepted_on_request(recipe: Path, tmp_path: Path) -> None:
    main(fit(recipe, "run"))
    words = [f"--ckpt_path={tmp_path / 'run/step=2.ckpt'}", "--data.init_args.mixture.cap=5"]
    with pytest.raises(ValueError, match=r"mixture\.cap was None and is 5\. Set back"):
        main(fit(recipe, "no", *words))
    assert run_trainer(fit(recipe, "new", *words, "--changed_stream=true")).trainer.global_step == 4


def test_the_saved_configuration_of_a_run_serves_other_commands(recipe: Path, tmp_path: Path) -> None:
    main(fit(recipe, "run"))
    saved = tmp_path / "run/run/config.yaml"
    assert yaml.safe_load(saved.read_text())["changed_stream"] is False
    few = ["--trainer.limit_test_batches=1", "--trainer.logger.init_args.version=tested"]
    main(["test", "--config", str(saved), f"--ckpt_path={tmp_path / 'run/step=4.ckpt'}", *few])
    main(["describe", "--config", str(saved), "--depth", "1"])


@pytest.mark.parametrize("word", ["hpc", "registry:some/model", "best"])
def test_checkpoints_without_a_place_are_rejected(word: str, recipe: Path) -> None:
    with pytest.raises(ValueError, match=f"--ckpt_path {word}"):
        main(fit(recipe, "no", f"--ckpt_path={word}"))
