"""Small folders in the file format of every benchmark reader, so that all readers run offline.

The content is made of facts about animals, colors, names and numbers; the format is that of the published files, with
the same names, columns, nesting and errors. ``toy_benchmarks`` reads them all::

    folder/bigbench/toy_sorting/task.json, folder/mmlu/test/anatomy_test.csv, folder/spider/dev.json, ...
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

from ..benchmarks import (
    FLAN,
    MMLU,
    P3,
    RAFT,
    T5,
    Benchmark,
    BigBench,
    BigBenchHard,
    ChainOfThought,
    CrossFit,
    Dialogue,
    ExMix,
    FileTasks,
    FlanRows,
    OptEvaluation,
    PretrainingText,
    PromptSource,
    Reasoning,
    RowSource,
    StructuredKnowledge,
)
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


def toy_benchmarks(folder: str | Path) -> list[Benchmark]:
    """Return a reader for each benchmark of synthetic files in a folder; those of evaluation benchmarks come last.

    Args:
        folder: Folder that ``write_families`` has filled.
    """
    root = str(folder)
    rows = {"super_glue_rte": RowSource(f"{root}/promptsource/rte.jsonl")}
    flan = {"rte": FlanRows(f"{root}/flan/rte.jsonl", options=["yes", "no"], label="label")}
    return [
        PromptSource(f"{root}/promptsource/templates", rows),
        P3(f"{root}/p3"),
        FLAN(f"{root}/flan/templates.py", flan),
        ChainOfThought(f"{root}/flan_cot"),
        CrossFit(f"{root}/crossfit"),
        ExMix(f"{root}/exmix"),
        T5(f"{root}/t5"),
        StructuredKnowledge(root),
        Reasoning(root),
        Dialogue(root),
        PretrainingText({"toy": f"{root}/pretraining"}),
        FileTasks(f"{root}/file_tasks"),
        MMLU(f"{root}/mmlu"),
        BigBench(f"{root}/bigbench"),
        BigBenchHard(f"{root}/bbh"),
        RAFT(f"{root}/raft"),
        OptEvaluation(root),
    ]
