"""Demonstrations that instruction optimization has chosen for a task: ids of examples in a folder of instructions."""

from collections.abc import Collection, Mapping, Sequence

from ..data_files import read_json
from ..messages import expanded, some
from ..schema import Example

FOLDER = "learned_instructions"
"""Folder of learned instructions in the folder of an exported model."""
DESCRIPTION = "instructions.json"
"""File that describes the instructions of such a folder."""

Chosen = Mapping[str, Sequence[str]]
"""Ids of the examples that are demonstrations, by task, in the order of the prompt."""


def read_chosen(folder: str | None) -> Chosen:
    """Read which training examples instruction optimization has chosen as demonstrations; {} if `folder` is None.

    Args:
        folder: Folder of an exported model, or of its learned instructions; None for none.

    Raises:
        ValueError: The folder has no learned instructions, or their kind chooses no examples.
    """
    if folder is None:
        return {}
    place = expanded(folder)
    path = next((one for one in (place / DESCRIPTION, place / FOLDER / DESCRIPTION) if one.is_file()), None)
    if path is None:
        raise ValueError(f"no learned instructions in {folder}: expected {DESCRIPTION} there or in its folder {FOLDER}")
    described = read_json(path)
    if not described.get("chosen"):
        raise ValueError(
            f"the learned instructions in {folder} are of kind {described['kind']}, which chooses no examples for a "
            "task: a direct_extractor does"
        )
    return {task: [one["id"] for one in chosen] for task, chosen in described["chosen"].items()}


def chosen_examples(chosen: Chosen, task: str, trained: Collection[Example]) -> list[Example]:
    """Look up the training examples that were chosen as a task's demonstrations, in order; [] if none were chosen.

    Args:
        chosen: Ids of the demonstrations of each task.
        task: Name of the task.
        trained: Training examples of the task. An evaluated example must not be a demonstration.

    Raises:
        ValueError: A chosen example is not among the training examples.
    """
    by_id = {example.id: example for example in trained}
    if missing := [number for number in chosen.get(task, ()) if number not in by_id]:
        raise ValueError(
            f"demonstrations chosen for task {task!r} are not among its training examples: {some(missing)}; use the "
            "`instances` and `seed` that they were chosen with"
        )
    return [by_id[number] for number in chosen.get(task, ())]
