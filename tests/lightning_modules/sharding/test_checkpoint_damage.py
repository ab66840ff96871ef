"""Checkpoints with a damaged weight are rejected before it is used: torch reads them without a word."""

import contextlib
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from small_runs import SmallRuns, saved_run, small_trainer

from crosstask.commands.export import export_checkpoint
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.sharding.checkpoint_damage import damage


def flip(path: Path, place: int, zeros: int = 0) -> None:
    """Flip a bit of a file, or overwrite a block of it by zeros."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    content[place : place + zeros] = bytes(zeros)
    path.write_bytes(content)


def place_of_a_weight(path: Path) -> int:
    """The place of a byte in the largest record of a file."""
    with zipfile.ZipFile(path) as archive:
        largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
    return path.read_bytes().index(largest) + len(largest) // 2


def require_same_or_damaged(path: Path, file: Path, whole: bytes, load: Callable[[], Any]) -> None:
    """Flip bits of a file, one at a time: what torch reads otherwise is damaged."""
    expected, found, dice = load(), 0, random.Random(0)
    for number in range(100):
        file.write_bytes(whole)
        flip(file, dice.randrange(len(whole)))
        os.utime(file, ns=(number, number))
        found += damage(path) is not None
        if damage(path) is None:
            with contextlib.suppress(RuntimeError):  # torch itself has noticed it
                assert load() == expected, number
    assert found > 80


def test_a_flipped_bit_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"weight": torch.arange(4000.0), "step": 3}, path)
    assert damage(path) is None
    require_same_or_damaged(
        path, path, path.read_bytes(), lambda: torch.load(path, weights_only=True)["weight"].tolist()
    )


def test_a_flipped_bit_of_a_shard_is_found(tmp_path: Path) -> None:
    path, weight = tmp_path / "shards", torch.arange(4000.0)
    dcp.save({"weight": weight, "step": 3}, checkpoint_id=path, no_dist=True)
    torch.save({"step": 3}, path / "meta.pt")
    assert damage(path) is None
    (shard,) = path.glob("*.distcp")

    def load() -> list[float]:
        read = {"weight": torch.zeros(4000)}
        dcp.load(read, checkpoint_id=path, no_dist=True)
        return read["weight"].tolist()

    require_same_or_damaged(path, shard, shard.read_bytes(), load)
    assert damage(path, rank=1, processes=2) is None  # the other process reads it
    flip(path / "meta.pt", place_of_a_weight(path / "meta.pt"))
    assert "meta.pt is damaged" in str(damage(path, rank=1, processes=2))


def test_no_checksum_is_no_damage(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(torch.arange(4000.0), tmp_path / "last.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert damage(tmp_path / "last.ckpt") is None


@pytest.fixture(scope="module")
def saved(small_runs: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(small_runs("tuning"), tmp_path_factory.mktemp("saved") / "last.ckpt")


@pytest.mark.parametrize("zeros", [0, 4096])
def test_a_damaged_checkpoint_is_not_used(saved: Path, small_runs: SmallRuns, tmp_path: Path, zeros: int) -> None:
    path = tmp_path / "last.ckpt"
    shutil.copy(saved, path)
    flip(path, place_of_a_weight(path), zeros)
    message = r"last\.ckpt is damaged \(.*\): take a copy of it, or the checkpoint before it"
    module, data = small_runs("tuning")
    with pytest.raises(ValueError, match=message):
        small_trainer(4).fit(module, datamodule=data, ckpt_path=str(path))
    with pytest.raises(ValueError, match=message):
        small_trainer(4).test(module, datamodule=data, ckpt_path=str(path))
    with pytest.raises(ValueError, match=message):
        export_checkpoint([str(path), str(tmp_path / "exported")])
    with pytest.raises(ValueError, match=message):
        InstructionTuningModule.load_from_checkpoint(path)
    assert not (tmp_path / "exported").exists()
