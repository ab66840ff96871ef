"""Each logger, with its real package where it is installed: hyperparameters and metrics arrive."""

import csv
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from own_files import fit_words, own_model, own_task

from crosstask.cli import program
from crosstask.commands.shared.trainer import run_trainer

Logged = tuple[dict[str, Any], dict[str, list[float]]]
"""Hyperparameters by name, and the values of each metric."""


def read_csv(root: Path) -> Logged:
    hparams = yaml.full_load((root / "version_0/hparams.yaml").read_text())
    metrics: dict[str, list[float]] = {}
    with open(root / "version_0/metrics.csv") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                metrics.setdefault(name, []).extend([float(value)] if value else [])
    return hparams, metrics


def read_tensorboard(root: Path) -> Logged:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {path.parent for path in root.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    metrics = {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return yaml.full_load((folder / "hparams.yaml").read_text()), metrics


def read_wandb(root: Path) -> Logged:
    """Names before field 16 of W&B's records, which holds their values as JSON; the package has no reader."""
    import wandb

    wandb.finish()  # its service writes beside the program, until the run is finished
    (path,) = root.rglob("run-*.wandb")
    records = path.read_bytes()
    values: dict[str, list[Any]] = {}
    for match in re.finditer(rb"([\w/]+)\x82\x01", records):
        length, place = records[match.end()], match.end() + 1
        if length >= 128:  # a length in two bytes
            length, place = length - 128 + 128 * records[place], place + 1
        with suppress(ValueError):
            value = json.loads(records[place : place + length])
            values.setdefault(match[1].decode(), []).append(value)
    distinct = {name: list(dict.fromkeys(map(repr, found))) for name, found in values.items()}  # a summary repeats them
    metrics = {name: [float(value) for value in found] for name, found in distinct.items() if "/" in name}
    return {name: found[0] for name, found in values.items()}, metrics


def read_mlflow(root: Path) -> Logged:
    from mlflow import MlflowClient

    client = MlflowClient(f"file:{root / 'mlruns'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "lightning_logs"]
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = {name: [m.value for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
    return dict(run.data.params), metrics


LOGGERS: dict[str, tuple[str | None, list[str], Callable[[Path], Logged]]] = {
    "CSVLogger": (None, [], read_csv),
    "TensorBoardLogger": ("tensorboard", ["--trainer.logger.save_dir=run"], read_tensorboard),
    "WandbLogger": ("wandb", ["--trainer.logger.offline=true"], read_wandb),
    "MLFlowLogger": ("mlflow", [], read_mlflow),
}


@pytest.fixture
def words(toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    model, task = own_model(toybench, tmp_path / "files"), own_task(tmp_path / "files/mine", 40)
    monkeypatch.chdir(tmp_path)
    few = ["--data.rows.per_step=1", "--data.instances.validation=2", "--data.evaluation.max_new_tokens=4"]
    return [*fit_words(model, task, *few), "--trainer.default_root_dir=run", "--trainer.max_steps=2"]


@pytest.mark.parametrize("logger", LOGGERS)
def test_hyperparameters_and_metrics_arrive(logger: str, words: list[str]) -> None:
    package, options, read = LOGGERS[logger]
    if package is not None:
        pytest.importorskip(package)
        options = [f"--trainer.logger={logger}", *options]
    run_trainer([*words, *options, "--without=HuggingFaceExport"])
    for reader in {read_csv, read}:
        hparams, metrics = reader(Path("run").absolute())
        assert str(next(value for name, value in hparams.items() if name == "row_length")) == "256"
        assert "5e-05" in str(hparams)
        assert len(metrics["train/loss"]) == 2
        assert "validation/rouge_l" in metrics
    assert Path("run/version_0/report/validation/report.md").is_file()  # the run's folder, whatever else logs


@pytest.mark.parametrize("logger", ["TensorBoardLogger", "WandbLogger", "MLFlowLogger"])
def test_a_missing_package_is_named_with_its_command(
    logger: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, options, _ = LOGGERS[logger]
    try:
        __import__(str(package))
    except ImportError:
        pass
    else:
        pytest.skip(f"{package} is installed")
    monkeypatch.setattr("sys.argv", ["crosstask", *words, f"--trainer.logger={logger}", *options])
    with pytest.raises(SystemExit) as rejected:
        program()
    said = f"{rejected.value}\n{capsys.readouterr().err}"
    assert "is not installed" in said
    assert f"pip install {package}" in said
    assert len(said) < 1000
    assert not Path("run").exists()
