"""Write the embedded benchmark: 92 small text tasks and a tokenizer, for offline runs.

The tasks have the format of Super-NaturalInstructions. With --families it also writes small files of every other
collection that crosstask reads, in the formats of their sources.

Example:
    crosstask toybench --folder runs/quickstart/toybench
"""

from collections.abc import Sequence

from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(write_benchmark, words)


def write_benchmark(folder: str, instances: int = 500, seed: int = 0, families: bool = False) -> None:
    """Write the embedded benchmark and its tokenizer.

    Args:
        folder: Folder into which the tasks, the splits and the tokenizer are written.
        instances: Instances of each task.
        seed: Seed of the instances.
        families: Also write small files of every other collection.
    """
    from ..datamodules.toybench.writer import write_toybench

    write_toybench(folder, instances=instances, seed=seed, families=families)
