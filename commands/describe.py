"""``crosstask describe``: print the training data of a run as a tree."""

from collections.abc import Sequence

from .shared.run_data import data_parser, parsed_data


def describe(words: Sequence[str]) -> None:
    """Print the training data as a tree, after the rules that split the tasks.

    Args:
        words: The words after ``crosstask describe``.
    """
    parser = data_parser("Print the training data of a run as a tree; prepares what the store lacks.")
    help_depth = "1 for benchmarks (or levels), 2 for categories, 3 for tasks."
    parser.add_argument("--depth", type=int, default=3, help=help_depth)
    settings, data = parsed_data(parser, words)
    data.prepare_data()
    data.setup("fit")
    steps = int((settings.trainer or {}).get("max_steps", -1))
    description = data.describe(steps if steps > 0 else None)
    print("\n".join([*data.split_lines(), *description.lines(settings.depth)]))
