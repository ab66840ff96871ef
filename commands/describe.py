"""``crosstask describe``: print the mixture of a run as a tree."""

from collections.abc import Sequence

from .shared.run_data import data_parser, parsed_data


def describe(words: Sequence[str]) -> None:
    """Print the mixture as a tree, and what became of the rules that split the tasks.

    Args:
        words: What stands behind ``crosstask describe``.
    """
    parser = data_parser("Print the mixture of a run as a tree; prepares what the store lacks.")
    parser.add_argument("--depth", type=int, default=3, help="1 for benchmarks, 2 for categories, 3 for tasks.")
    settings, data = parsed_data(parser, words)
    data.prepare_data()
    data.setup("fit")
    steps = int((settings.trainer or {}).get("max_steps", -1))
    print("\n".join([*data.split_lines(), *data.describe(steps if steps > 0 else None).lines(settings.depth)]))
