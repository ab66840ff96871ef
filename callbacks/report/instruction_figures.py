"""What was learned, on the report's page: the figures and numbers that InstructionAnalysis left of a run's training."""

import json
from collections.abc import Sequence
from pathlib import Path

from .comparison import System
from .markup import Markup, element, join

FOLDER, NUMBERS = "instructions", "analysis.json"
CAPTIONS = {
    "map": "Instructions by category (t-SNE of the model's mean last states): circles as people wrote them, crosses as "
    "they were learned.",
    "curves-losses": "Losses over the steps of training.",
    "curves-gradient-norms": "Norms of the gradients of both levels, and of the hypergradient.",
    "curves-hypergradient": "How alike the hypergradients of half outer batches are (their cosine: near 0 is noise), "
    "and the share of an extractor's choices on the last candidate, whichever were measured.",
}


def instruction_figures(systems: Sequence[System]) -> Markup:
    """The figures of every run that has them, with their numbers; nothing where no instructions were learned."""
    found = {run: folder for system in systems for run in system.runs if (folder := figures_folder(Path(run)))}
    heads = {run: element("h3", str(folder)) if len(found) > 1 else Markup() for run, folder in found.items()}
    return join(part for run, folder in found.items() for part in (heads[run], _of_run(folder)))


def figures_folder(predictions: Path) -> Path | None:
    """Where training drew: in the folder of the run whose predictions these are, or beside it.

    A test is a run of its own. Recipes name a folder for the figures beside their checkpoints, where both are found.
    """
    run = predictions.parent.parent
    return next((parent / FOLDER for parent in (run, run.parent) if any((parent / FOLDER).glob("*.svg"))), None)


def _of_run(folder: Path) -> Markup:
    drawn = [(name, folder / f"{name}.svg") for name in CAPTIONS if (folder / f"{name}.svg").exists()]
    # The files are our own, with names escaped; the page's policy would keep anything else from running.
    figures = [
        element("figure", element("figcaption", CAPTIONS[name]), Markup(path.read_text(encoding="utf-8")))
        for name, path in drawn
    ]
    return join([*figures, _numbers(folder / NUMBERS)])


def _numbers(path: Path) -> Markup:
    if not path.exists():
        return Markup()
    numbers = json.loads(path.read_text(encoding="utf-8"))
    kinds = [kind for kind in ("human", "learned") if kind in numbers]
    measures = list(dict.fromkeys(measure for kind in kinds for measure in numbers[kind]))
    head = element("tr", *(element("th", name, scope="col") for name in ("cosine distance", *kinds)))
    rows = [
        element(
            "tr",
            element("th", measure, scope="row"),
            *(element("td", f"{numbers[kind][measure]:.3f}") for kind in kinds),
        )
        for measure in measures
    ]
    return element("table", element("thead", head), element("tbody", *rows))
