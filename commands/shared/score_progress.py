"""Progress lines of `select` and `classify`, while a model scores items and processes share them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from ...datamodules.visible_text import terminal_text
from ...lightning_modules.scoring.score_files import ItemScores, ScoreFiles

SECONDS_BETWEEN_LINES = 30.0
"""Least time between two lines of progress."""


def score_progress(console: Console, name: str, items: str, total: int) -> Callable[[int], None]:
    """Return a function that prints how many items are scored, and about how many minutes are left.

    Call the function with the number of items that are scored so far. It prints at most one line in 30 seconds, and
    none when all items are scored.

    Args:
        console: Console to print to.
        name: Name of the model.
        items: Plural name of the items, e.g. ``"questions"``.
        total: Number of items that this process scores.
    """
    began = last = time.monotonic()
    first = -1

    def progress(done: int) -> None:
        nonlocal last, first
        first = done if first < 0 else first
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done < total:
            last = now
            left = (total - done) * (now - began) / max(done - first, 1) / 60
            line = f"{name}: {done:,} of {total:,} {items}, some {left:.0f} minutes left"
            console.print(terminal_text(line), soft_wrap=True, highlight=False)

    return progress


def finished_scores(console: Console, files: Mapping[str, ScoreFiles[Any]]) -> dict[str, ItemScores] | None:
    """Return the scores of all models by name; if other processes have not finished, print a line and return None.

    Args:
        console: Console to print to.
        files: Files with the scores of each model, by its name.
    """
    scores = {name: of_model.scores() for name, of_model in files.items()}
    if unfinished := [name for name, of_model in scores.items() if of_model is None]:
        names = ", ".join(unfinished)
        line = f"other processes still score with {names}; the one that finishes the last batch writes the report"
        console.print(terminal_text(line), soft_wrap=True, highlight=False)
    return None if unfinished else {name: of_model for name, of_model in scores.items() if of_model is not None}
