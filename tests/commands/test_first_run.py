"""A run without any YAML: what it begins with, where it writes, and what it says at its end."""

import fcntl
import io
import json
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from own_files import fit_words, own_model, own_task
from transformers import AutoConfig, XGLMConfig, XGLMForCausalLM

from crosstask.cli import main
from crosstask.commands.shared.default_settings import fill_open_settings, given_settings
from crosstask.commands.shared.linked_cli import LinkedCLI
from crosstask.commands.shared.trainer import run_trainer

ONE_ROW = ["--data.rows.per_step=1", "--trainer.num_sanity_val_steps=0", "--data.evaluation.max_new_tokens=4"]


@pytest.fixture
def words(toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words of a fit in an empty working directory."""
    model, task = own_model(toybench, tmp_path / "files"), own_task(tmp_path / "files/mine")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return [*fit_words(model, task), f"--data.cache={tmp_path / 'store'}"]


def test_a_run_writes_evaluates_and_says_what_comes_next(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main([*words, "--trainer.max_steps=3"])
    run = Path("runs/fit-1/version_0")
    for name in ("config.yaml", "packing.json", "metrics.csv", "huggingface/model.safetensors"):
        assert (run / name).is_file(), name
    assert torch.load("runs/fit-1/checkpoints/last.ckpt", weights_only=False)["global_step"] == 3
    predictions = [json.loads(line) for line in (run / "predictions/validation.jsonl").read_text().splitlines()]
    assert [line["number"] for line in predictions] == list(range(10))  # what the task held out
    assert json.loads((run / "report/validation/report.json").read_text())["levels"]
    assert (run / "report/validation/report.html").is_file()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["init_args"]["rows"] | {"packing": 0} == {
        "length": 256,
        "target_length": None,
        "per_step": 16,
        "packing": 0,
    }
    assert saved["trainer"]["default_root_dir"] == "runs/fit-1"
    output = capsys.readouterr().out
    assert re.search(
        r"^step 3 of 3 \| loss \d\.\d+ \| learning rate \S+ \| [\d,]+ tokens/s \| 0:00:00 left$", output, re.M
    )
    assert re.search(r"^validation: batch \d of \d, 10 of 10 examples$", output, re.M)
    assert re.search(r"^Trained 3 steps, [\d,]+ tokens in 0:\d\d:\d\d: train/loss \d", output, re.M)
    commands = [line.strip() for line in output.partition("Next:")[2].splitlines() if line.startswith("  crosstask")]
    assert [line.split()[1] for line in commands] == ["validate", "report", "predict", "chat", "export"]
    monkeypatch.setattr("sys.stdin", io.StringIO("/quit\n"))
    for command in commands:
        main(shlex.split(command)[1:])  # as printed
    assert Path("runs/fit-1/report/report.html").is_file()
    for name in ("answers.jsonl", "export/model.safetensors"):
        assert (run / name).is_file(), name
    assert (Path("runs/fit-1/version_1/predictions/validation.jsonl")).read_text() == (
        run / "predictions/validation.jsonl"
    ).read_text()


def test_each_run_has_its_own_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run_trainer([*words, *ONE_ROW, "--trainer.max_steps=2", "--trainer.limit_val_batches=0"])
    first = Path("runs/fit-1/checkpoints/last.ckpt").read_bytes()
    again = [*words, *ONE_ROW, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    run_trainer(again)
    assert torch.load("runs/fit-2/checkpoints/last.ckpt", weights_only=False)["global_step"] == 1
    with pytest.raises(ValueError, match=r"holds checkpoints of another run .*--ckpt_path last"):
        run_trainer([*again, "--trainer.default_root_dir=runs/fit-1"])
    with pytest.raises(ValueError, match="holds checkpoints of another run"):
        run_trainer([*again, "--trainer.default_root_dir=runs/fit-1", "--ckpt_path=runs/fit-2/checkpoints/last.ckpt"])
    assert Path("runs/fit-1/checkpoints/last.ckpt").read_bytes() == first
    assert not Path("runs/fit-1/version_1").exists()  # nothing of the rejected runs
    with pytest.raises(ValueError, match="--ckpt_path last is looked for in the run's folder"):
        run_trainer([*again, "--ckpt_path=last"])
    for command in ("test", "validate"):  # Lightning would only warn, and evaluate the weights before training
        with pytest.raises(ValueError, match=r"no checkpoint of a run below .*runs/none: set trainer.default_root_dir"):
            run_trainer([command, *again[1:], "--trainer.default_root_dir=runs/none", "--ckpt_path=last"])
    resumed = ["fit", "--config=runs/fit-1/version_0/config.yaml", "--ckpt_path=last", "--trainer.max_steps=3"]
    assert run_trainer(resumed).trainer.global_step == 3
    assert "Trained 1 step, " in capsys.readouterr().out
    assert run_trainer(resumed).trainer.global_step == 3
    output = capsys.readouterr().out
    assert "Nothing left to train: the checkpoint is of step 3, the run's last" in output
    assert "Trained" not in output
    assert sorted(path.name for path in Path("runs").iterdir()) == ["fit-1", "fit-2"]
    config = "--config=runs/fit-2/version_0/config.yaml"
    run_trainer(["fit", config, "--trainer.default_root_dir=runs/other", "--trainer.limit_val_batches=0"])
    assert (Path("runs/other/checkpoints/last.ckpt").is_file(), Path("runs/other/version_0").is_dir()) == (True, True)
    assert not Path("runs/fit-2/version_1").exists()


def test_two_runs_cannot_write_checkpoints_into_one_folder(words: list[str]) -> None:
    folder = Path("runs/shared/checkpoints")
    folder.mkdir(parents=True)
    with open(folder / ".in-use", "w") as file:
        file.write("process 7 on elsewhere")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another run .process 7 on elsewhere. writes checkpoints into"):
            run_trainer([*words, *ONE_ROW, "--trainer.max_steps=1", "--trainer.default_root_dir=runs/shared"])
    assert not list(folder.glob("*.ckpt"))


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        ("--data.rows.length=512", "exceeds the 256 positions"),
        ("--model.optimizer.warmup=9", "exceeds the 1 step of"),
        ("--trainer.accumulate_grad_batches=3", "multiple of 3"),
        ("--without=Throughputs", "nearest: Throughput"),
        ("--data.epochs=2", "give one of them"),
    ],
)
def test_a_rejected_run_leaves_no_folder(rejected: str, reason: str, words: list[str]) -> None:
    with pytest.raises((ValueError, OSError), match=reason):
        main([*words, "--trainer.max_steps=1", rejected])
    assert not list(Path().rglob("*-*"))
    with pytest.raises((ValueError, OSError), match=reason):
        main([*words, "--trainer.max_steps=1", "--trainer.default_root_dir=here", rejected])
    assert not list(Path("here").rglob("*"))


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_defaults_agree_at_any_number_of_steps(steps: int, words: list[str]) -> None:
    run = run_trainer([*words, *ONE_ROW, f"--trainer.max_steps={steps}"])
    assert run.trainer.global_step == steps
    rows = Path("runs/fit-1/version_0/metrics.csv").read_text().splitlines()
    logged = [row for row in rows[1:] if row.split(",")[rows[0].split(",").index("train/loss")]]
    assert len(logged) == steps  # every step of a short run
    assert any(name.startswith("throughput/") for name in rows[0].split(","))


def test_epochs_count_the_steps(words: list[str]) -> None:
    few = ["--data.rows.per_step=4", "--trainer.limit_val_batches=0", "--model.optimizer.warmup=0.5"]
    run = run_trainer([*words, *few, "--data.epochs=2"])
    steps = math.ceil(2 * run.datamodule.report().rows / 4)  # a step may have rows of both epochs
    assert run.trainer.global_step == run.trainer.max_steps == run.model.total_steps == steps
    assert run.trainer.lr_scheduler_configs[0].scheduler.last_epoch == steps
    state = torch.load("runs/fit-1/checkpoints/last.ckpt", weights_only=False)
    assert state["global_step"] == steps
    longer = run_trainer(["fit", "--config=runs/fit-1/version_0/config.yaml", "--ckpt_path=last", "--data.epochs=2.5"])
    assert longer.trainer.global_step == longer.trainer.max_steps > steps


def names(run: LinkedCLI) -> list[str]:
    return [type(callback).__name__ for callback in run.trainer.callbacks]


def test_callbacks_are_added_replaced_and_left_out(words: list[str]) -> None:
    options = words[1:]
    default = names(LinkedCLI([*options, "--trainer.max_steps=1"], run=False))
    assert {"PackingSummary", "HuggingFaceExport", "GeneralizationReport", "ModelCheckpoint"} <= {*default}
    added = names(LinkedCLI([*options, "--trainer.callbacks+=Stragglers"], run=False))
    assert {*added} == {*default, "Stragglers"}
    own = json.dumps({"trainer": {"callbacks": [{"class_path": "Stragglers"}]}})
    Path("own.yaml").write_text(own)
    assert "HuggingFaceExport" not in names(LinkedCLI([*options, "--config=own.yaml"], run=False))
    short = [*words, *ONE_ROW, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    run = run_trainer([*short, "--without=HuggingFaceExport"])
    assert "HuggingFaceExport" not in names(run)
    assert not Path("runs/fit-1/version_0/huggingface").exists()
    run = run_trainer([*short, "--trainer.enable_checkpointing=false", "--trainer.logger=false"])
    assert not Path("runs/fit-2").exists()
    run_trainer([*short, "--trainer.fast_dev_run=true"])


def test_rows_fit_the_model_unless_they_are_given(words: list[str]) -> None:
    settings = LinkedCLI(words[1:], run=False).settings
    assert settings["data"]["init_args"]["rows"]["length"] == settings["model"]["init_args"]["row_length"] == 256
    assert settings["data"]["init_args"]["evaluation"]["max_new_tokens"] == 64
    rows = settings["data"]["init_args"]["rows"]
    rows["length"] = 100
    given = given_settings(["--data.rows", '{"length": 100}'])
    assert given == {"data.rows.length"}
    fill_open_settings(settings, given)
    assert rows["length"] == 100


OWN_CLASSES = """
from crosstask.datamodules import InstructionTuningDataModule
from crosstask.lightning_modules import InstructionTuningModule


class MyData(InstructionTuningDataModule):
    pass


class MyModule(InstructionTuningModule):
    pass
"""


def test_rows_fit_the_model_for_subclasses_of_ones_own(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_package.py").write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--model=my_package.MyModule", "--data=my_package.MyData", *words[1:]]
    run = LinkedCLI([*options, "--trainer.max_steps=1"], run=False)
    assert type(run.datamodule).__name__ == "MyData"
    settings = run.settings
    assert settings["data"]["init_args"]["rows"]["length"] == settings["model"]["init_args"]["row_length"] == 256
    assert run.defaults == [
        "A step has 16 rows of 256 tokens in 1 batch: --data.rows.length, --data.rows.per_step and "
        "--trainer.accumulate_grad_batches set others."
    ]


def test_a_model_that_cannot_be_packed_trains_on_one_document_a_row(words: list[str], tmp_path: Path) -> None:
    model = tmp_path / "files/llama"
    (model / "model.safetensors").unlink()
    vocabulary = AutoConfig.from_pretrained(model).vocab_size
    small = {"d_model": 32, "ffn_dim": 64, "num_layers": 1, "attention_heads": 4}
    XGLMForCausalLM(XGLMConfig(vocab_size=vocabulary, **small)).save_pretrained(model)
    run = run_trainer([*words, *ONE_ROW, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"])
    assert run.model.network.attention == "eager"
    assert run.datamodule.rows.packing == "one_per_row"
    assert any("with eager attention, since the attention of XGLM" in sentence for sentence in run.defaults)
    with pytest.raises(ValueError, match=r"XGLMForCausalLM cannot read packed rows: .*attention to eager"):
        run_trainer([*words, *ONE_ROW, "--trainer.max_steps=1", "--model.network.attention=document"])


def test_a_run_without_logger_and_root_leaves_the_working_directorys_config_as_it_is(words: list[str]) -> None:
    Path("config.yaml").write_text("mine: 1\n")
    kept = '[{"class_path": "ModelCheckpoint", "init_args": {"dirpath": "kept", "save_last": true}}]'
    options = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.logger=false"]
    run_trainer([*words, *ONE_ROW, *options, f"--trainer.callbacks={kept}"])
    assert Path("kept/last.ckpt").is_file()
    assert Path("config.yaml").read_text() == "mine: 1\n"
