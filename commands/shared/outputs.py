"""Checks of a command's output before it computes anything: results of something else are never overwritten."""

from collections.abc import Collection
from pathlib import Path

from ...datamodules.data_files import read_json


def require_own_report(folder: Path, keys: Collection[str], command: str) -> None:
    """Reject a folder with a report of something else.

    Args:
        folder: Folder of ``report.json`` and ``report.md``.
        keys: Names in the ``report.json`` that this command writes.
        command: Name of the command.

    Raises:
        ValueError: ``report.json`` lacks one of the names, or there is a ``report.md`` without it.
    """
    path = folder / "report.json"
    if not path.is_file():
        if (folder / "report.md").exists():
            raise ValueError(f"{folder / 'report.md'} was not written by `crosstask {command}`: name another folder")
        return
    try:
        content = read_json(path)
    except ValueError:  # neither UTF-8 nor JSON
        content = None
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise ValueError(f"{path} is no report of `crosstask {command}`: name another folder, or remove it first")
