"""Evaluate a model on the validation set of a run.

The settings are those of `crosstask fit`. Weights come from --ckpt_path, or from the model's `pretrained`.

Example:
    crosstask validate --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt
"""

from collections.abc import Sequence

from .shared.trainer import run_and_leave


def run(words: Sequence[str]) -> None:
    """Run the command with the words after ``crosstask validate``."""
    run_and_leave(["validate", *words])
