"""Readers of the small files of every benchmark family."""

from pathlib import Path

from crosstask.datamodules.benchmarks import (
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


def toy_benchmarks(folder: str | Path) -> list[Benchmark]:
    """A reader for each benchmark in a folder of ``write_families``; those that only evaluate come last."""
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
