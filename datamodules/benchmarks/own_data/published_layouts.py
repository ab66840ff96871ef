"""Folders of published benchmarks, which other readers read: named where one is given as own data."""

from pathlib import Path

LAYOUTS = {
    "splits/default/train_tasks.txt": ("NaturalInstructions", "folder"),
    "tasks/task*.json": ("NaturalInstructions", "folder"),  # without the lists
    "bigbench/benchmark_tasks": ("BigBench", "source"),
    "cot-prompts": ("BigBenchHard", "folder"),
}
"""For a path or a pattern in a clone of a published benchmark, its reader and the argument that takes the folder."""


def reader_hint(folder: Path) -> str:
    """Return the end of a sentence that names the reader of a published benchmark's folder; empty for other folders.

    >>> reader_hint(Path("mine"))
    ''
    """
    for path, (reader, argument) in LAYOUTS.items():
        if any(folder.glob(path)):
            options = f"--data.benchmark {reader} --data.benchmark.{argument} {folder}"
            return f"; it is a folder of {reader}: give `{options}`"
    return ""
