"""Evaluate a model on the test set of a run, at the three levels of generalization.

The settings are those of `crosstask fit`. Weights come from --ckpt_path, or from the model's `pretrained`. An
interrupted evaluation resumes from the predictions on disk.

Example:
    crosstask test --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt
"""

from collections.abc import Sequence

from .shared.trainer import run_and_leave


def run(words: Sequence[str]) -> None:
    """Run the command with the words after ``crosstask test``."""
    run_and_leave(["test", *words])
