"""Callbacks: reports, predictions, throughput, export, preemption."""

from .generalization_report import GeneralizationReport
from .huggingface_export import HuggingFaceExport
from .instruction_analysis import InstructionAnalysis
from .packing_summary import PackingSummary
from .prediction_writer import PredictionWriter
from .preemption import Preemption
from .run_record import RunRecord
from .stragglers import Stragglers
from .throughput import Throughput

__all__ = [
    "GeneralizationReport",
    "HuggingFaceExport",
    "InstructionAnalysis",
    "PackingSummary",
    "PredictionWriter",
    "Preemption",
    "RunRecord",
    "Stragglers",
    "Throughput",
]
