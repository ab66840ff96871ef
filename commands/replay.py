"""Repeat a training step that was not finite, from the dump that training wrote when it stopped.

It prints the losses and gradient norms of the step and of each batch, and the first module whose output is not finite.
The message with which training stopped names the dump's folder.

Example:
    crosstask replay runs/quickstart/not-finite-step-12
    crosstask replay runs/quickstart/not-finite-step-12 --device cuda
"""

from collections.abc import Sequence

from ..datamodules.messages import expanded
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(replay, words)


def replay(dump: Sequence[str], weights: str | None = None, device: str = "cpu") -> None:
    """Repeat a training step whose loss or gradient was not finite, and print what was not.

    Args:
        dump: The dump's folder, not-finite-step-N.
        weights: Checkpoint with the weights before the step; by default those in the dump, which has none under
            DeepSpeed.
        device: Device of the computation, e.g. cuda.

    Raises:
        ValueError: The folder is no dump, or there are no weights.
    """
    if isinstance(dump, str) or len(dump) != 1:
        raise ValueError(f"replay takes one folder, not-finite-step-N, got {dump}")
    from ..lightning_modules.step_replay import replay_step  # torch, which the help does not need

    for line in replay_step(
        expanded(dump[0]), weights=None if weights is None else expanded(weights), device=device
    ).lines():
        print(line)
