"""LightningModules and what they compute with: batches to losses, metrics and optimizer steps."""

from typing import TYPE_CHECKING

from ..datamodules.lazy_imports import lazy_names

if TYPE_CHECKING:
    from .evaluation.likelihood import score_options
    from .instruction_optimization import InstructionOptimizationModule
    from .instruction_tuning import InstructionTuningModule
    from .scorer import ScorerModule
    from .scoring.cross_encoder import CrossEncoder
    from .sharding.strategies import ShardedStrategy
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "CrossEncoder": "scoring.cross_encoder",
            "InstructionOptimizationModule": "instruction_optimization",
            "InstructionTuningModule": "instruction_tuning",
            "ScorerModule": "scorer",
            "ShardedStrategy": "sharding.strategies",
            "score_options": "evaluation.likelihood",
        },
    )

__all__ = [
    "CrossEncoder",
    "InstructionOptimizationModule",
    "InstructionTuningModule",
    "ScorerModule",
    "ShardedStrategy",
    "score_options",
]
