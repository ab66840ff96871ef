"""Print the training data of a run as a tree, with the expected draws of each task.

Tasks that the store lacks are prepared. Draws are those of trainer.max_steps optimizer steps, or if that is -1, of the
datamodule's epochs. All options of `crosstask fit` are accepted, and those of the data are used.

Example:
    crosstask describe --config quickstart --depth 2
"""

from collections.abc import Sequence

from ..datamodules.visible_text import visible
from .shared.run_settings import Settings, build_data, run_on_settings


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_on_settings(describe_mixture, words)


def describe_mixture(settings: Settings, depth: int = 3) -> None:
    """Print the expected draws of a run's training as a tree of benchmarks, categories and tasks.

    What the benchmark reports of its tasks and files comes first, on stderr.

    Args:
        settings: Settings of the run.
        depth: Depth of the tree: 1 for benchmarks, 2 for categories, 3 for tasks.
    """
    data = build_data(settings)
    data.prepare_data()
    data.setup("fit")
    steps = settings.trainer.max_steps
    print(visible("\n".join(data.describe(steps if steps > 0 else None).lines(depth))))
