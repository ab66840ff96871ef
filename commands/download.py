"""Download collections of tasks by git or from the Hugging Face hub; name the files to place by hand.

The variable CROSSTASK_DATA names the data folder. A part of a collection appears complete or not at all; an interrupted
download resumes, and files that were placed by hand are kept. docs/data.md lists the collections.

Example:
    crosstask download super_natural_instructions flan reasoning --to ~/crosstask_data
    crosstask download opt_iml --to ~/crosstask_data --dry_run
    export CROSSTASK_DATA=~/crosstask_data
"""

from collections import Counter
from collections.abc import Sequence

from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(download_collections, words)


def download_collections(
    collections: list[str], to: str, dry_run: bool = False, verify: bool = False, sources: str = ""
) -> None:
    """Download collections of tasks into a data folder.

    Args:
        collections: Names of collections; opt_iml for all of them.
        to: The data folder.
        dry_run: Only list sources, sizes, licences and target folders.
        verify: Compare files that were downloaded earlier with their recorded digests.
        sources: Path of your own YAML of sources, in the format of the installed one
            (datamodules/downloads/sources.py); empty for the installed one.

    Raises:
        ValueError: There is no such collection, or a part could not be obtained; the others are placed.
    """
    from ..datamodules.downloads.downloading import chosen_collections, download, part_lines
    from ..datamodules.downloads.sources import read_sources
    from ..datamodules.messages import expanded

    wanted = chosen_collections(collections, read_sources(sources))
    if dry_run:
        print("\n".join(part_lines(wanted)))
        return
    outcomes = []
    folder = expanded(to).absolute()
    for outcome in download(wanted, folder, verify=verify):
        print(outcome, flush=True)
        outcomes.append(outcome)
    counts = Counter(outcome.status for outcome in outcomes)
    summary = ", ".join(f"{number} {status}" for status, number in counts.items())
    print(f"{summary}{f'; export CROSSTASK_DATA={folder}' if folder.exists() else ''}")
    if failed := [f"{outcome.collection}/{outcome.part}" for outcome in outcomes if outcome.status == "failed"]:
        raise ValueError(
            f"{len(failed)} of {len(outcomes)} parts were not obtained, for the reasons above: {', '.join(failed)}"
        )
