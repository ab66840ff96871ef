"""What happens beside training: reports, predictions, throughput, export."""

from .generalization_report import GeneralizationReport
from .huggingface_export import HuggingFaceExport
from .packing_summary import PackingSummary
from .prediction_writer import PredictionWriter
from .throughput import Throughput

__all__ = ["GeneralizationReport", "HuggingFaceExport", "PackingSummary", "PredictionWriter", "Throughput"]
