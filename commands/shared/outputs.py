"""Checks of output folders, before a command computes anything: reports of other commands are not overwritten."""

from collections.abc import Collection
from pathlib import Path

from ...datamodules.data_files import read_json


def require_own_report(folder: Path, keys: Collection[str], command: str) -> None:
    """Reject a folder that has a report of another command.

    Args:
        folder: Output folder, whose ``report.json`` and ``report.md`` the command will write.
        keys: Top-level keys of the ``report.json`` that the command writes, by which its own reports are recognized.
        command: Name of the command, for the error.

    Raises:
        ValueError: ``report.json`` lacks one of the keys, or there is a ``report.md`` without a ``report.json``.
    """
    path = folder / "report.json"
    if not path.is_file():
        if (folder / "report.md").exists():
            raise ValueError(
                f"{folder / 'report.md'} has no report.json beside it, by which a report of `crosstask {command}` is "
                "recognized: name another folder, or remove it first"
            )
        return
    try:
        content = read_json(path)
    except ValueError:  # neither UTF-8 nor JSON
        content = None
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise ValueError(f"{path} is no report of `crosstask {command}`: name another folder, or remove it first")
