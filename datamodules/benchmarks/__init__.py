"""Benchmark readers, one per benchmark family: tasks and examples from the files that its authors published."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names

if TYPE_CHECKING:
    from .bbh import BigBenchHard
    from .benchmark import Benchmark, Split
    from .benchmark_text import BenchmarkText
    from .bigbench import BigBench
    from .chain_of_thought import ChainOfThought
    from .dialogue import Dialogue
    from .flan import FLAN, FlanRows
    from .mmlu import MMLU
    from .natural_instructions import NaturalInstructions
    from .opt_evaluation import OptEvaluation
    from .own_data.file_tasks import FileTasks
    from .p3 import P3
    from .pretraining import PretrainingText
    from .promptsource import PromptSource
    from .raft import RAFT
    from .reasoning import Reasoning
    from .structured_knowledge import StructuredKnowledge
    from .templates.template_rows import RowSource
    from .text_to_text import T5, CrossFit, ExMix
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "Benchmark": "benchmark",
            "BenchmarkText": "benchmark_text",
            "BigBench": "bigbench",
            "BigBenchHard": "bbh",
            "ChainOfThought": "chain_of_thought",
            "CrossFit": "text_to_text",
            "Dialogue": "dialogue",
            "ExMix": "text_to_text",
            "FLAN": "flan",
            "FlanRows": "flan",
            "FileTasks": "own_data.file_tasks",
            "MMLU": "mmlu",
            "NaturalInstructions": "natural_instructions",
            "OptEvaluation": "opt_evaluation",
            "P3": "p3",
            "PretrainingText": "pretraining",
            "PromptSource": "promptsource",
            "RAFT": "raft",
            "Reasoning": "reasoning",
            "RowSource": "templates.template_rows",
            "Split": "benchmark",
            "StructuredKnowledge": "structured_knowledge",
            "T5": "text_to_text",
        },
    )

__all__ = [
    "FLAN",
    "MMLU",
    "P3",
    "RAFT",
    "T5",
    "Benchmark",
    "BenchmarkText",
    "BigBench",
    "BigBenchHard",
    "ChainOfThought",
    "CrossFit",
    "Dialogue",
    "ExMix",
    "FileTasks",
    "FlanRows",
    "NaturalInstructions",
    "OptEvaluation",
    "PretrainingText",
    "PromptSource",
    "Reasoning",
    "RowSource",
    "Split",
    "StructuredKnowledge",
]
