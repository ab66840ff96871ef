"""The last checkpoint of a run: the one with the most optimizer steps, since clocks go back."""

import re
from collections.abc import Iterable
from pathlib import Path

from .checkpoints import checkpoint_extras
from .replacing import WHOLE, newest_path


def last_checkpoint(folder: Path, name: str) -> Path | None:
    """The last of a folder's checkpoints, of all versions that runs in the folder have written.

    Args:
        folder: Folder of a run's checkpoints.
        name: Name of the last one, without its suffix.
    """
    pattern = re.compile(rf"({WHOLE})?({re.escape(name)}(-.*)?\.ckpt)")
    names = [match[2] for path in folder.glob("*.ckpt") if (match := pattern.fullmatch(path.name))]
    return most_steps(newest_path(folder / each) for each in dict.fromkeys(names))


def most_steps(paths: Iterable[Path]) -> Path | None:
    """The checkpoint with the most optimizer steps, of equal ones the latest; unreadable ones come last.

    Args:
        paths: Complete checkpoints.
    """
    listed = list(paths)
    if len(listed) < 2:
        return listed[0] if listed else None
    return max(listed, key=lambda path: (_steps(path), path.stat().st_mtime))


def _steps(path: Path) -> int:
    """Optimizer steps of a checkpoint; -1 for one that cannot be read."""
    try:
        return int(checkpoint_extras(path)["global_step"])
    except (ValueError, KeyError, TypeError):
        return -1
