"""Reading of the figures and numbers that InstructionAnalysis wrote in training, for the report's page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ...datamodules.data_files import read_json, read_text
from .comparison import System
from .svg import clean_svg

FOLDER, NUMBERS = "instructions", "analysis.json"
CAPTIONS = {
    "map": "Instructions by category (t-SNE of mean last hidden states): filled marks are human-written, hollow ones "
    "learned, dots the initial values of the learned ones.",
    "curves-losses": "Losses over the steps of training.",
    "curves-gradient-norms": "Norms of the inner and the outer gradient, and of the hypergradient.",
    "curves-hypergradient": "Cosine between the hypergradients of half outer batches (near 0: noise), and the share of "
    "an extractor's choices on the last exemplar; each if it was logged.",
    "curves-distances": "Mean cosine distances within and between categories during training, of learned, initial and "
    "human-written instructions in the model of that step.",
}


@dataclass(frozen=True)
class InstructionAnalysisFiles:
    """Figures and distances of learned instructions of one training.

    Args:
        folder: Folder that they were read from.
        figures: Caption and SVG element of each figure.
        kinds: Kinds of instructions (human-written, initial, learned): the columns of `distances`.
        distances: Mean cosine distance for each kind, by measure.
        moved: Distance of the learned instructions from their start, by measure; empty if unknown.
    """

    folder: Path
    figures: list[dict[str, str]]
    kinds: list[str]
    distances: dict[str, list[float]]
    moved: dict[str, float]


def instruction_analyses(systems: Sequence[System]) -> list[InstructionAnalysisFiles]:
    """Read the figures and distances that InstructionAnalysis wrote in the trainings of some systems.

    Systems whose training learned no instructions have none.
    """
    folders = [analysis_folder(Path(run)) for system in systems for run in system.runs]
    return [_read_analysis(folder) for folder in dict.fromkeys(folders) if folder is not None]


def analysis_folder(predictions: Path) -> Path | None:
    """Find the folder of figures that InstructionAnalysis wrote in the training whose model was evaluated.

    It is in the folder of the run that wrote the predictions, or beside this folder: a test is a run with its own
    folder, and recipes place the analysis beside the checkpoints, which fit and test share.

    Args:
        predictions: File of predictions of an evaluation.

    Returns:
        The folder; None if there is none.
    """
    run = predictions.parent.parent
    return next((parent / FOLDER for parent in (run, run.parent) if any((parent / FOLDER).glob("*.svg"))), None)


def _read_analysis(folder: Path) -> InstructionAnalysisFiles:
    paths = {caption: folder / f"{name}.svg" for name, caption in CAPTIONS.items()}
    figures = [
        # Cleaned again, as anybody may have changed the file.
        {"caption": caption, "svg": Markup(clean_svg(read_text(path), caption))}
        for caption, path in paths.items()
        if path.exists()
    ]
    path = folder / NUMBERS
    numbers = read_json(path) if path.exists() else {}
    kinds = [kind for kind in ("human", "initial", "learned") if kind in numbers]
    measures = dict.fromkeys(measure for kind in kinds for measure in numbers[kind])
    distances = {measure: [numbers[kind][measure] for kind in kinds] for measure in measures}
    return InstructionAnalysisFiles(folder, figures, kinds, distances, numbers.get("moved", {}))
