"""Batches to loss, metrics and optimizers."""

from .cross_encoder import CrossEncoder
from .instruction_optimization import InstructionOptimizationModule
from .instruction_tuning import InstructionTuningModule
from .scorer import ScorerModule

__all__ = ["CrossEncoder", "InstructionOptimizationModule", "InstructionTuningModule", "ScorerModule"]
