"""The last checkpoint of a run: the one with the most optimizer steps, since clocks can go back."""

import re
from collections.abc import Iterable
from pathlib import Path

from .checkpoint_replacement import WHOLE, newest_path
from .checkpoints import checkpoint_extras


def last_checkpoint(folder: Path, name: str) -> Path | None:
    """Return the checkpoint called `name` with the most optimizer steps in a folder; None without any.

    Lightning adds -v1, -v2 ... to the name if a file of that name exists; all of these are compared.

    Args:
        folder: Folder of a run's checkpoints.
        name: File name of the last checkpoint, without its suffix.
    """
    pattern = re.compile(rf"({WHOLE})?({re.escape(name)}(-.*)?\.ckpt)")
    names = [match[2] for path in folder.glob("*.ckpt") if (match := pattern.fullmatch(path.name))]
    return most_steps(newest_path(folder / each) for each in dict.fromkeys(names))


def most_steps(paths: Iterable[Path]) -> Path | None:
    """Return the checkpoint with the most optimizer steps, the newest of equal ones; None without any.

    A checkpoint that cannot be read is returned only if all cannot.

    Args:
        paths: Complete checkpoints.
    """
    listed = list(paths)
    if len(listed) < 2:
        return listed[0] if listed else None
    return max(listed, key=lambda path: (_steps(path), path.stat().st_mtime))


def _steps(path: Path) -> int:
    """Return the optimizer steps of a checkpoint; -1 if it cannot be read."""
    try:
        return int(checkpoint_extras(path)["global_step"])
    except (ValueError, KeyError, TypeError):
        return -1
