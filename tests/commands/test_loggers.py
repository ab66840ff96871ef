"""Each logger, with its real package where it is installed: hyperparameters and metrics arrive."""

import csv
import json
import struct
import time
from collections.abc import Callable, Iterator
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


def wandb_records(records: bytes) -> Iterator[bytes]:
    """Records of W&B's file, for which the package has no reader: pieces in blocks, as LevelDB's logs have them."""
    place, piece = 7, b""  # behind the file's own header
    while place + 7 < len(records):
        _, length, kind = struct.unpack_from("<IHB", records, place)
        if kind == 0:  # the rest of a block without room for a header
            place += -place % 2**15
            continue
        piece += records[place + 7 : place + 7 + length]
        place += 7 + length
        if 2**15 - place % 2**15 < 7:
            place += -place % 2**15
        if kind in (1, 4):  # whole, or the last piece
            yield piece
            piece = b""


def read_wandb(root: Path) -> Logged:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.finish()
    (path,) = root.rglob("run-*.wandb")
    records: list[Any] = []
    while not any(record.HasField("exit") for record in records):  # its service writes beside the program
        time.sleep(0.1)
        records = [Record.FromString(record) for record in wandb_records(path.read_bytes())]
    hparams: dict[str, Any] = {}
    metrics: dict[str, list[float]] = {}
    for record in records:
        for setting in [*record.run.config.update, *record.config.update]:
            hparams[setting.key or ".".join(setting.nested_key)] = json.loads(setting.value_json)
        for item in record.history.item:
            metrics.setdefault(item.key or ".".join(item.nested_key), []).append(json.loads(item.value_json))
    return hparams, metrics


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
