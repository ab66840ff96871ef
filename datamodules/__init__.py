"""Raw records to packed batches; no model code, usable from any Lightning project."""

from .benchmarks import Benchmark, NaturalInstructions
from .benchmarks.bench import Bench
from .benchmarks.suite import Suite
from .instruction_optimization import InstructionOptimizationDataModule
from .instruction_tuning import InstructionTuningDataModule
from .rendering.prompts import OptImlPrompt, PromptForm, TkInstructPrompt
from .scorer import ScorerDataModule

__all__ = [
    "Bench",
    "Benchmark",
    "InstructionOptimizationDataModule",
    "InstructionTuningDataModule",
    "NaturalInstructions",
    "OptImlPrompt",
    "PromptForm",
    "ScorerDataModule",
    "Suite",
    "TkInstructPrompt",
]
