"""What happens beside training: reports, predictions, throughput, export."""

from .huggingface_export import HuggingFaceExport
from .packing_summary import PackingSummary
from .throughput import Throughput

__all__ = ["HuggingFaceExport", "PackingSummary", "Throughput"]
