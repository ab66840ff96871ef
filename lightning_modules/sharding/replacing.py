"""A checkpoint takes another one's place so that, whenever the process ends, a whole one is left.

It is written under ``half-written-NAME`` and renamed ``whole-NAME`` once it is whole. Then the older one gets out of
the way under the name that it no longer needs, and the newer one takes its place. A folder cannot replace another in
one call of the system, as a file can, so that between two of these renamings only ``whole-NAME`` is left.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy

from ...datamodules.whole_files import naming, sync_folder

PARTIAL, WHOLE = "half-written-", "whole-"


def partial_path(path: Path) -> Path:
    """Path of a checkpoint until it is whole."""
    return path.with_name(PARTIAL + path.name)


def whole_path(path: Path) -> Path:
    """Path of a whole checkpoint until it has replaced an older one."""
    return path.with_name(WHOLE + path.name)


def newest_path(path: Path) -> Path:
    """A checkpoint's path, or that of a newer one whose process was ended before it had replaced the older one.

    No times are compared, since clocks go back: a save that ends, and the next one that begins, leave no other one.
    """
    whole = whole_path(path)
    return whole if whole.exists() else path


def replace_whole(path: Path, write: Callable[[Path], None], *, moves: bool, wait: Callable[[], None]) -> None:
    """Write a checkpoint and put it in the place of an older one; every process must call it.

    Args:
        path: Of the checkpoint.
        write: Writes all of it, or this process's part, to another path.
        moves: Whether this process renames and deletes: exactly one does.
        wait: Until all processes have come here.
    """
    if moves:
        clear_place(path)
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
        take_place(path)
        sync_folder(path.parent)
    wait()


def clear_place(path: Path) -> None:
    """Finish the replacement that an ended process began, and delete its half-written checkpoint."""
    if whole_path(path).exists():
        take_place(path)
    _delete(partial_path(path))


def take_place(path: Path) -> None:
    """Move the whole checkpoint to its path, over a file in one step, over a folder in two."""
    whole, partial = whole_path(path), partial_path(path)
    if path.is_symlink() or path.is_dir() or (path.exists() and whole.is_dir()):
        _delete(partial)
        path.rename(partial)
    whole.replace(path)
    _delete(partial)


def save_through_replacing(strategy: Strategy) -> None:
    """Have a strategy of Lightning's, which writes folders in place, write beside the checkpoint that it replaces."""
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
