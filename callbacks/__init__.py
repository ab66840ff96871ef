"""Lightning callbacks: reports, predictions, progress, throughput, export and preemption."""

from typing import TYPE_CHECKING

from ..datamodules.lazy_imports import lazy_names

if TYPE_CHECKING:
    from .generalization_report import GeneralizationReport
    from .huggingface_export import HuggingFaceExport
    from .instruction_analysis import InstructionAnalysis
    from .loss_spikes import LossSpikes
    from .packing_summary import PackingSummary
    from .prediction_writer import PredictionWriter
    from .preemption import Preemption
    from .progress_lines import ProgressLines
    from .run_record import RunRecord
    from .run_summary import RunSummary
    from .stragglers import Stragglers
    from .throughput import Throughput
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "GeneralizationReport": "generalization_report",
            "HuggingFaceExport": "huggingface_export",
            "InstructionAnalysis": "instruction_analysis",
            "LossSpikes": "loss_spikes",
            "PackingSummary": "packing_summary",
            "PredictionWriter": "prediction_writer",
            "Preemption": "preemption",
            "ProgressLines": "progress_lines",
            "RunRecord": "run_record",
            "RunSummary": "run_summary",
            "Stragglers": "stragglers",
            "Throughput": "throughput",
        },
    )

__all__ = [
    "GeneralizationReport",
    "HuggingFaceExport",
    "InstructionAnalysis",
    "LossSpikes",
    "PackingSummary",
    "PredictionWriter",
    "Preemption",
    "ProgressLines",
    "RunRecord",
    "RunSummary",
    "Stragglers",
    "Throughput",
]
