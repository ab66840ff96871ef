"""Small folders in the file format of every benchmark reader, so that all readers run offline.

The content is made of facts about animals, colors, names and numbers; the format is that of the published files, with
the same names, columns, nesting and errors::

    folder/bigbench/toy_sorting/task.json, folder/mmlu/test/anatomy_test.csv, folder/spider/dev.json, ...
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

from .evaluation_files import bbh, bigbench, mmlu, opt_evaluation, raft
from .reasoning_files import write_chains
from .training_files import dialogue, own_tasks, pretraining, schema_guided, structured, templates, text_to_text

WRITERS: tuple[Callable[[Path, Random, int], None], ...] = (
    bigbench,
    mmlu,
    bbh,
    raft,
    write_chains,
    structured,
    schema_guided,
    dialogue,
    pretraining,
    text_to_text,
    templates,
    own_tasks,
    opt_evaluation,
)
"""Writers of (folder, random generator, rows of each file)."""


def write_families(folder: Path, *, examples: int = 24, seed: int = 0) -> None:
    """Write small synthetic files in the published format of every benchmark, so that all readers run offline.

    Equal arguments write equal bytes.

    Args:
        folder: Folder of the files; it is created if it is missing.
        examples: Number of rows of each file.
        seed: Seed of all rows.
    """
    for write in WRITERS:
        write(folder, Random(f"{seed} {write.__name__}"), examples)
