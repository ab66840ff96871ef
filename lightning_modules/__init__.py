"""Batches to loss, metrics and optimizers."""

from .instruction_tuning import InstructionTuningModule

__all__ = ["InstructionTuningModule"]
