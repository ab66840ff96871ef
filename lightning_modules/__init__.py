"""Batches to loss, metrics and optimizers."""

from .cross_encoder import CrossEncoder
from .instruction_tuning import InstructionTuningModule
from .scorer import ScorerModule

__all__ = ["CrossEncoder", "InstructionTuningModule", "ScorerModule"]
