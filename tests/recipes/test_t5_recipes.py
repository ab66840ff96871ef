"""The small T5 on the embedded benchmark: tokenizer, pre-training, measure and adaptation, by its recipes."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pretrained_t5
import pytest
import torch
import yaml
from recipes import few_tasks
from safetensors.torch import load_file

from crosstask.cli import main
from crosstask.commands.shared.config_names import composed_settings, merged
from crosstask.commands.shared.run_settings import build_benchmark
from crosstask.commands.shared.settings_reader import SettingsReader
from crosstask.datamodules import NaturalInstructions

SHAPE = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 2}


def shrunk(name: str, toybench: Path, **model: Any) -> str:
    """A recipe on a few tasks of the embedded benchmark, for two steps of a tiny model."""
    splits = few_tasks(toybench, Path("splits").absolute())
    tasks = {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench), "splits": splits}}
    changes = {
        "trainer": {"accelerator": "cpu", "max_steps": 2, "log_every_n_steps": 1, "enable_progress_bar": False},
        "model": {"init_args": model | {"optimizer": {"warmup": 1}}},
        "data": {"init_args": {"benchmark": {"init_args": {"benchmark": tasks}}}},
    }
    recipe = merged(composed_settings(name), changes)
    recipe["data"]["init_args"]["benchmark"]["init_args"]["benchmark"] = tasks  # the recipe's has other arguments
    Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return f"{name}.yaml"


def test_the_commands_of_the_recipes_pretrain_measure_and_adapt(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--vocabulary", "400", "--sentinels", "100", "--folder", "runs/t5_small/tokenizer"]
    main(["tokenizer", "--benchmark", "NaturalInstructions", "--benchmark.folder", str(toybench), *arguments])
    main(["fit", "--config", shrunk("t5_small_pretraining", toybench, config=SHAPE)])
    run = Path("runs/t5_small/pretraining/version_0")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["pretrained_t5.py", str(run), "measured", "--documents", "2"])
    pretrained_t5.main()
    printed = capsys.readouterr().out
    assert "| loss of 2 unseen tasks | mean [95% interval] |" in printed
    assert all(f"| {name} | " in printed for name in ("unigram", "random weights", "trained"))
    assert "unigram model" in Path("measured/loss.svg").read_text()
    main(["fit", "--config", shrunk("t5_small_adaptation", toybench)])
    before, after = (
        load_file(folder / "huggingface/model.safetensors")
        for folder in (run, Path("runs/t5_small/adaptation/version_0"))
    )
    moved = {name: float(torch.linalg.vector_norm(after[name] - before[name])) for name in before}
    norms = {name: float(torch.linalg.vector_norm(before[name])) for name in before}
    assert 0 < sum(moved.values()) < 0.1 * sum(norms.values())  # it starts from the pretrained weights


def test_the_unigram_model_has_the_entropy_of_its_counts() -> None:
    losses = pretrained_t5.unigram_losses(np.array([3, 1, 0]))
    assert np.exp(-losses) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_no_test_task_is_pretrained_on() -> None:
    text = build_benchmark(SettingsReader("test", ["--config", "t5_small_pretraining"]).settings)
    tested = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle").task_names("test")
    trained = text.task_names("train")
    assert (len(trained), len(tested)) == (534, 80)
    assert not {f"superni/{name}" for name in tested} & {*trained}
