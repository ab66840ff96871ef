"""Compare language models that were adapted through scorers: one table with and without the scorer.

It reads the outputs of `crosstask adapt` on the same test instances, e.g. of a frozen model, of the same model with
demonstrations, fine-tuned and prefix-tuned (Cappy's Tables 3 and 7). NAME=FOLDER names a model; differences are to the
first one.

Example:
    crosstask adaptations frozen=runs/flan/adapted prefix=runs/prefix/adapted --output runs/with_and_without
"""

from collections.abc import Sequence
from pathlib import Path

from ..callbacks.report.adapted_models import adapted_models, to_json, to_markdown
from ..callbacks.report.systems import parse_systems
from ..datamodules.atomic_files import write_whole
from ..datamodules.messages import expanded
from ..datamodules.visible_text import visible
from .shared.function_command import run_function
from .shared.outputs import require_own_report


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(compare_adaptations, words)


def compare_adaptations(adapted: list[str], output: str | Path = "adaptations") -> None:
    """Compare language models that were adapted through scorers, on the same test instances.

    Args:
        adapted: Folders that `crosstask adapt` wrote, one for each language model; NAME=FOLDER gives a model a name.
            Differences are to the first one.
        output: Folder into which ``report.md`` and ``report.json`` are written.

    Raises:
        ValueError: A folder was not written by `crosstask adapt`, or the models were tested on different instances.
    """
    folder = expanded(output)
    require_own_report(folder, ("with_scorer", "over_first"), "adaptations")
    systems = parse_systems(adapted)
    if several := [name for name, folders in systems.items() if len(folders) > 1]:
        raise ValueError(f"{several[0]} should be one folder of `crosstask adapt`, got {len(systems[several[0]])}")
    compared = adapted_models({name: folders[0] for name, folders in systems.items()})
    folder.mkdir(parents=True, exist_ok=True)
    text = to_markdown(compared)
    write_whole(folder / "report.json", to_json(compared))
    write_whole(folder / "report.md", text)
    print(visible(text))
    print(folder / "report.md")
