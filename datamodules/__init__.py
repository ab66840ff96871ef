"""Raw records to packed batches; no model code, usable from any Lightning project."""

from typing import TYPE_CHECKING

from .lazy_imports import lazy_names

if TYPE_CHECKING:
    from .benchmarks import Benchmark, NaturalInstructions
    from .benchmarks.bench import Bench
    from .benchmarks.suite import Suite
    from .instruction_optimization import InstructionOptimizationDataModule
    from .instruction_tuning import InstructionTuningDataModule
    from .rendering.prompts import ChatPrompt, OptImlPrompt, PromptForm, TkInstructPrompt
    from .scorer import ScorerDataModule
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "Bench": "benchmarks.bench",
            "Benchmark": "benchmarks.benchmark",
            "ChatPrompt": "rendering.prompts",
            "InstructionOptimizationDataModule": "instruction_optimization",
            "InstructionTuningDataModule": "instruction_tuning",
            "NaturalInstructions": "benchmarks.natural_instructions",
            "OptImlPrompt": "rendering.prompts",
            "PromptForm": "rendering.prompts",
            "ScorerDataModule": "scorer",
            "Suite": "benchmarks.suite",
            "TkInstructPrompt": "rendering.prompts",
        },
    )

__all__ = [
    "Bench",
    "Benchmark",
    "ChatPrompt",
    "InstructionOptimizationDataModule",
    "InstructionTuningDataModule",
    "NaturalInstructions",
    "OptImlPrompt",
    "PromptForm",
    "ScorerDataModule",
    "Suite",
    "TkInstructPrompt",
]
