"""Generate answers to the test set of a run.

The settings are those of `crosstask fit`. With the callback PredictionWriter the answers are written as JSON lines.

Example:
    crosstask predict --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt
"""

from collections.abc import Sequence

from .shared.trainer import run_and_leave


def run(words: Sequence[str]) -> None:
    """Predict by the words of a command line."""
    run_and_leave(["predict", *words])
