"""A checkpoint that replaces another: whenever the process ends, a whole one is found, and the next save ends well."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from crosstask.lightning_modules.sharding.checkpoint_replacement import (
    newest_path,
    replace_whole,
    save_through_replacing,
)
from crosstask.lightning_modules.sharding.checkpoints import AnyLayoutIO
from crosstask.lightning_modules.sharding.last_checkpoint import last_checkpoint

PARTS = ("a", "b")


def folder(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        for part in PARTS:
            (path / part).write_text(content)

    return write


def file(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def read(path: Path) -> str | None:
    """The content of a whole checkpoint, None of one that is not whole."""
    if path.is_file():
        return path.read_text()
    found = {(path / part).read_text() if (path / part).exists() else None for part in PARTS}
    return found.pop() if len(found) == 1 else None


class Killed(Exception):
    """Stands for the end of the process."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End the process before its `number`-th change of names or files from here on."""
    left = [number]

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return call(*args, **kwargs)

        return counted

    for name in ("rename", "replace", "mkdir", "write_text", "unlink"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))

    def rmtree(path: Path) -> None:
        for each in path.iterdir():
            each.unlink()
        path.rmdir()

    monkeypatch.setattr(shutil, "rmtree", rmtree)


@pytest.mark.parametrize(("old", "new"), [(folder, folder), (file, file), (folder, file), (file, folder)])
def test_whenever_the_process_ends_a_whole_checkpoint_is_left(old: Any, new: Any, tmp_path: Path) -> None:
    seen = set()
    for number in range(20):
        path = tmp_path / str(number) / "last.ckpt"
        path.parent.mkdir()
        old("old")(path)
        ended = True
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_at(monkeypatch, number)
            try:
                replace_whole(path, new("new"), moves=True, wait=lambda: None)
                ended = False
            except Killed:
                pass
        newest = newest_path(path)
        seen.add((newest.name, read(newest)))
        assert read(newest) in ("old", "new")
        assert last_checkpoint(path.parent, "last") == newest
        replace_whole(path, new("newer"), moves=True, wait=lambda: None)
        assert read(newest_path(path)) == "newer"
        assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]
        if not ended:
            break
    assert not ended
    assert {("last.ckpt", "old"), ("whole-last.ckpt", "new"), ("last.ckpt", "new")} == seen


def test_the_first_checkpoint_of_a_run_is_found_too(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path, "last") is None
    folder("half")(tmp_path / "half-written-last.ckpt")
    assert last_checkpoint(tmp_path, "last") is None
    folder("new")(tmp_path / "whole-last.ckpt")
    assert newest_path(tmp_path / "last.ckpt") == last_checkpoint(tmp_path, "last") == tmp_path / "whole-last.ckpt"


@pytest.mark.parametrize("newer", ["last.ckpt", "last-v1.ckpt", "whole-last.ckpt", "whole-last-v2.ckpt"])
def test_an_older_checkpoint_does_not_win_after_a_clock_went_back(tmp_path: Path, newer: str) -> None:
    for steps, name in enumerate([*sorted({"last.ckpt", "last-v1.ckpt", "last-v2.ckpt"} - {newer}), newer]):
        torch.save({"global_step": 10 * steps}, tmp_path / name)
        os.utime(tmp_path / name, (2**30 - steps, 2**30 - steps))
    assert last_checkpoint(tmp_path, "last") == tmp_path / newer


def test_a_checkpoint_that_cannot_be_read_is_the_last_choice(tmp_path: Path) -> None:
    torch.save({"global_step": 1}, tmp_path / "last.ckpt")
    (tmp_path / "last-v1.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:100])
    (tmp_path / "last-v2.ckpt").write_text("no checkpoint")
    assert last_checkpoint(tmp_path, "last") == tmp_path / "last.ckpt"


@pytest.mark.parametrize("place", ["elsewhere", "beside"])
def test_a_checkpoint_needs_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    AnyLayoutIO().save_checkpoint({"step": 1}, tmp_path / "run" / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert AnyLayoutIO().load_checkpoint(tmp_path / "run" / "last.ckpt")["step"] == 1


def test_lightnings_own_writers_write_beside_what_they_replace(tmp_path: Path) -> None:
    """DeepSpeed writes its folder in place, and Lightning copies a file over the older one."""
    path = tmp_path / "last.ckpt"
    AnyLayoutIO().save_checkpoint({"step": 1}, path)
    assert AnyLayoutIO().load_checkpoint(path)["step"] == 1

    class WritesThenDies(SingleDeviceStrategy):
        def save_checkpoint(self, checkpoint: Any, filepath: Any, storage_options: Any = None) -> None:
            filepath.mkdir()
            raise Killed

    strategy = WritesThenDies()
    save_through_replacing(strategy)
    with pytest.raises(Killed):
        strategy.save_checkpoint({}, path)
    assert newest_path(path) == path
    assert AnyLayoutIO().load_checkpoint(path)["step"] == 1
