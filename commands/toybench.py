"""``crosstask toybench``: write the embedded benchmark."""

from ..datamodules.toybench.writer import write_toybench


def write_benchmark(folder: str, instances: int = 500, seed: int = 0, families: bool = False) -> None:
    """Write the embedded benchmark: 92 small text tasks in the format of Super-NaturalInstructions, and a tokenizer.

    Args:
        folder: Where the tasks, the splits and the tokenizer are written.
        instances: Instances of a task.
        seed: Decides the instances.
        families: Whether to also write every other benchmark collection in small, in upstream's file formats.
    """
    write_toybench(folder, instances=instances, seed=seed, families=families)
