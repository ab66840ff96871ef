"""One reader per benchmark family: tasks and examples from its files as published."""

from .bbh import BigBenchHard
from .benchmark import Benchmark, Split
from .bigbench import BigBench
from .chain_of_thought import ChainOfThought
from .dialogue import Dialogue
from .flan import FLAN, FlanRows
from .json_tasks import JsonTasks
from .mmlu import MMLU
from .natural_instructions import NaturalInstructions
from .opt_evaluation import OptEvaluation
from .p3 import P3
from .pretraining import PretrainingText
from .promptsource import PromptSource
from .raft import RAFT
from .reasoning import Reasoning
from .structured_knowledge import StructuredKnowledge
from .template_rows import RowSource
from .text_to_text import T5, CrossFit, ExMix

__all__ = [
    "FLAN",
    "MMLU",
    "P3",
    "RAFT",
    "T5",
    "Benchmark",
    "BigBench",
    "BigBenchHard",
    "ChainOfThought",
    "CrossFit",
    "Dialogue",
    "ExMix",
    "FlanRows",
    "JsonTasks",
    "NaturalInstructions",
    "OptEvaluation",
    "PretrainingText",
    "PromptSource",
    "Reasoning",
    "RowSource",
    "Split",
    "StructuredKnowledge",
]
