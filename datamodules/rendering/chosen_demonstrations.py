"""Demonstrations that a training has chosen: examples by their ids, from the folder of its learned instructions."""

from collections.abc import Collection, Mapping, Sequence

from ..data_files import read_json
from ..messages import expanded, some
from ..schema import Example

FOLDER = "learned_instructions"
"""Folder in an exported model's."""
DESCRIPTION = "instructions.json"
"""File of a folder of learned instructions that describes them."""

Chosen = Mapping[str, Sequence[str]]
"""Ids of the examples that are demonstrations, by task, in order."""


def read_chosen(folder: str | None) -> Chosen:
    """The demonstrations that the tasks of a training have chosen; none for no folder.

    Raises:
        ValueError: The folder has no learned instructions, or none that are chosen examples.
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
    """The chosen demonstrations of a task, in order; none for a task that chose none.

    Args:
        chosen: The choices.
        task: Name of the task.
        trained: Its training examples: one that is evaluated is no demonstration.

    Raises:
        ValueError: A chosen example does not train.
    """
    by_id = {example.id: example for example in trained}
    if missing := [number for number in chosen.get(task, ()) if number not in by_id]:
        raise ValueError(
            f"task {task!r} chose demonstrations that are not among its training examples here: {some(missing)}; set "
            "instances and seed as they were when they were chosen"
        )
    return [by_id[number] for number in chosen.get(task, ())]
