"""Batches to loss, metrics and optimizers."""

from .evaluation.likelihood import score_options
from .instruction_optimization import InstructionOptimizationModule
from .instruction_tuning import InstructionTuningModule
from .scorer import ScorerModule
from .scoring.cross_encoder import CrossEncoder
from .sharding.strategies import ShardedStrategy

__all__ = [
    "CrossEncoder",
    "InstructionOptimizationModule",
    "InstructionTuningModule",
    "ScorerModule",
    "ShardedStrategy",
    "score_options",
]
