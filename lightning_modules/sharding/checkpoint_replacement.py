"""Replacement of a checkpoint such that a complete one exists at every moment.

A checkpoint is written as ``half-written-NAME`` and renamed to ``whole-NAME`` once it is complete. Then the older one
is renamed to the ``half-written-`` name, and the newer one gets its path. A folder cannot replace another in one system
call, as a file can; between the two renames only ``whole-NAME`` exists.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy

from ...datamodules.atomic_files import naming, sync_folder

PARTIAL, WHOLE = "half-written-", "whole-"


def partial_path(path: Path) -> Path:
    """Return the path of a checkpoint while it is written."""
    return path.with_name(PARTIAL + path.name)


def whole_path(path: Path) -> Path:
    """Return the path of a complete checkpoint until it has replaced an older one."""
    return path.with_name(WHOLE + path.name)


def newest_path(path: Path) -> Path:
    """Return the path of the newest complete version of a checkpoint.

    That is ``whole-NAME`` if it exists: its process ended before it could replace the older version at `path`. Times
    are not compared, since clocks can go back.
    """
    whole = whole_path(path)
    return whole if whole.exists() else path


def replace_whole(path: Path, write: Callable[[Path], None], *, moves: bool, wait: Callable[[], None]) -> None:
    """Write a checkpoint, and then replace an older one at its path by renames; every process must call it.

    Args:
        path: Path of the checkpoint.
        write: Writes all of it, or this process's part, to the path that it is given.
        moves: Whether this process renames and deletes; exactly one process does.
        wait: Waits until all processes have called it.
    """
    if moves:
        clear_target(path)
    wait()
    try:
        with naming(path):
            write(partial_path(path))
    except OSError:
        if moves:
            _delete(partial_path(path))  # a part on a full disk would leave no room for anything else
        raise
    wait()
    if moves:
        partial_path(path).rename(whole_path(path))
        move_into_place(path)
        sync_folder(path.parent)
    wait()


def clear_target(path: Path) -> None:
    """Finish the replacement of a checkpoint that an ended process has left undone, and delete half-written files."""
    if whole_path(path).exists():
        move_into_place(path)
    _delete(partial_path(path))


def move_into_place(path: Path) -> None:
    """Rename the complete checkpoint ``whole-NAME`` to its path: over a file in one step, over a folder in two."""
    whole, partial = whole_path(path), partial_path(path)
    if path.is_symlink() or path.is_dir() or (path.exists() and whole.is_dir()):
        _delete(partial)
        path.rename(partial)
    whole.replace(path)
    _delete(partial)


def save_through_replacing(strategy: Strategy) -> None:
    """Make a strategy replace its checkpoints by renames, so that a complete one exists at every moment.

    Lightning's own strategies write over the folder of an older checkpoint.
    """
    save = strategy.save_checkpoint

    def save_checkpoint(checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        replace_whole(
            Path(strategy.broadcast(filepath)),
            lambda path: save(checkpoint, path, storage_options),
            moves=strategy.is_global_zero,
            wait=strategy.barrier,
        )

    strategy.save_checkpoint = save_checkpoint  # type: ignore[method-assign]


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
