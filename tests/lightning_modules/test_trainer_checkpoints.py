"""Checkpoints are written when their settings say so, or the settings are rejected."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import SmallRuns
from trainer_fits import trained

EACH: dict[str, Any] = {"limit_val_batches": 1.0, "val_check_interval": 1}
"""A validation after every batch."""


@pytest.mark.parametrize(
    ("settings", "options", "files"),
    [
        ({"every_n_train_steps": 1, "save_top_k": -1}, {}, ["step=1", "step=2", "step=3"]),
        ({"every_n_train_steps": 2}, {}, ["step=2"]),
        ({}, {}, ["step=3"]),  # no validation: at the end
        ({"save_on_train_epoch_end": True}, {"check_val_every_n_epoch": None}, ["step=3"]),
        ({"save_top_k": -1}, {**EACH, "check_val_every_n_epoch": None}, ["step=1", "step=2", "step=3"]),
        ({"save_top_k": -1}, EACH, ["step=3"]),  # Lightning takes 1 batch for 1.0, the end of the epoch
        (
            {"monitor": "validation/loss", "save_last": True},
            {"limit_val_batches": 1.0, "val_check_interval": 3},
            ["last", "step=3"],
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["tuning", "optimization"])
def test_checkpoints_are_written_when_they_are_due(
    kind: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    files: list[str],
    small_runs: SmallRuns,
    tmp_path: Path,
) -> None:
    writer = ModelCheckpoint(tmp_path, filename="{step}", **settings)
    trained(small_runs, kind, callbacks=[writer], enable_checkpointing=True, **options)
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == files


def test_checkpoints_by_time_are_written_or_rejected(small_runs: SmallRuns, tmp_path: Path) -> None:
    """Lightning does not look at the time in manual optimization."""
    for kind in ("tuning", "optimization"):
        writer = ModelCheckpoint(tmp_path / kind, filename="{step}", train_time_interval=timedelta(0), save_top_k=-1)
        options: dict[str, Any] = {"callbacks": [writer], "enable_checkpointing": True}
        if kind == "optimization":
            with pytest.raises(ValueError, match="does not look at train_time_interval in manual optimization"):
                trained(small_runs, kind, **options)
        else:
            trained(small_runs, kind, **options)
            assert {path.stem for path in (tmp_path / kind).glob("*.ckpt")} == {"step=1", "step=2", "step=3"}


def test_steps_that_no_checkpoint_holds_are_reported(
    small_runs: SmallRuns, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for every, last in ((2, 4), (3, 3)):
        caplog.clear()
        with caplog.at_level("INFO"):
            writer = ModelCheckpoint(tmp_path, every_n_train_steps=every)
            trained(small_runs, "tuning", 5, callbacks=[writer], enable_checkpointing=True)
        assert f"the last checkpoint will be of step {last} of 5" in caplog.text
