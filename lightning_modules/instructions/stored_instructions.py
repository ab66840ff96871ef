r"""Learned instructions as files: their parameters, and a description of the tasks and model they belong to.

A folder holds ``instructions.safetensors``, the parameters of the instruction, and ``instructions.json``::

    {"kind": "direct_extractor", "length": 128, "exemplars": 32, "width": 768, "tokenizer": "google/t5-base-lm-adapt",
     "tasks": ["task1147_country_currency", ...],
     "chosen": {"task1147_country_currency": {"exemplar": 3, "text": " Positive Example -\\n..."}, ...}}

``chosen`` is present if each task chooses an exemplar. Parameters with one row per task have them in the order of
``tasks``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...datamodules.data_files import read_json
from ...datamodules.messages import some
from ...datamodules.whole_files import write_whole
from .learnable_instructions import DirectExtractor, LearnableInstruction

FOLDER = "learned_instructions"
"""Folder in an exported model's."""
VALUES, DESCRIPTION = "instructions.safetensors", "instructions.json"

Description = Mapping[str, Any]
"""The plain values above."""


class StoredInstructions(NamedTuple):
    """Learned instructions that were read from a folder.

    Args:
        description: The content of ``instructions.json``.
        values: The parameters of the instruction, by name.
    """

    description: Description
    values: dict[str, Tensor]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the parameters' rows."""
        return list(self.description["tasks"])


def chosen_exemplars(
    instruction: LearnableInstruction, tasks: Sequence[str], texts: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return the exemplar that each task chose, with its text, by task name; empty if tasks do not choose.

    Args:
        instruction: The instruction.
        tasks: Names of the inner tasks.
        texts: Texts of the exemplars of each task; empty if exemplars belong to instances.
    """
    if not isinstance(instruction, DirectExtractor) or not texts:
        return {}
    chosen = instruction.logits.detach()[:, 0].argmax(dim=1).tolist()
    return {
        task: {"exemplar": place, "text": of_task[place]}
        for task, place, of_task in zip(tasks, chosen, texts, strict=True)
    }


def write_instructions(folder: Path, description: Description, values: Mapping[str, Tensor]) -> None:
    """Write learned instructions into a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, folder / VALUES)
    write_whole(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False))


def read_instructions(folder: Path) -> StoredInstructions:
    """Return the learned instructions of a folder, or those in an exported model's folder.

    Raises:
        ValueError: There are none.
    """
    place = folder if (folder / DESCRIPTION).is_file() else folder / FOLDER
    if not (place / DESCRIPTION).is_file() or not (place / VALUES).is_file():
        raise ValueError(
            f"no learned instructions in {folder}: expected {DESCRIPTION} and {VALUES} there or in its folder "
            f"{FOLDER}, as `crosstask export CHECKPOINT FOLDER` writes them"
        )
    return StoredInstructions(read_json(place / DESCRIPTION), load_file(place / VALUES))


@torch.no_grad()
def apply_stored(
    instruction: LearnableInstruction, stored: StoredInstructions, kind: str, tasks: Sequence[str]
) -> list[str]:
    """Set the instruction's parameters to stored values; return the tasks without stored values, which do not change.

    Args:
        instruction: The instruction to set.
        stored: Stored values.
        kind: The instruction's kind, as in ``InstructionSettings.kind``.
        tasks: Names of the inner tasks, in the order of the instruction's rows.

    Raises:
        ValueError: The stored instructions are of another kind or size, or of none of the tasks.
    """
    if stored.description["kind"] != kind:
        raise ValueError(
            f"the stored instructions are of kind {stored.description['kind']}, and instruction.kind is {kind}: set it "
            "to the stored one"
        )
    rows = {name: row for row, name in enumerate(stored.tasks)}
    known = [task for task in tasks if task in rows]
    if instruction.task_parameters and not known:
        raise ValueError(f"none of the {len(tasks)} inner tasks has a stored instruction; stored: {some(stored.tasks)}")
    there, here = [rows[task] for task in known], [place for place, task in enumerate(tasks) if task in rows]
    for name, parameter in instruction.named_parameters():
        by_task = name in instruction.task_parameters
        value = stored.values.get(name)
        if value is None or value.shape[by_task:] != parameter.shape[by_task:]:
            sizes = "missing" if value is None else tuple(value.shape[by_task:])
            raise ValueError(
                f"the stored {name} is {sizes}, and this run's {tuple(parameter.shape[by_task:])}: instructions apply "
                "to models of one width, with instructions.length and exemplars as they were learned"
            )
        if by_task:
            parameter[here] = value[there].to(parameter)
        else:
            parameter.copy_(value)
    return [task for task in tasks if task not in rows] if instruction.task_parameters else []


def require_same_exemplars(stored: StoredInstructions, tasks: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Reject stored choices among other exemplars than those of this run.

    Raises:
        ValueError: With the tasks whose chosen exemplar has another text here.
    """
    chosen: Mapping[str, Any] = stored.description.get("chosen", {})
    other = [
        task
        for task, of_task in zip(tasks, texts, strict=False)
        if task in chosen and chosen[task]["text"] != dict(enumerate(of_task)).get(chosen[task]["exemplar"])
    ]
    if other:
        raise ValueError(
            f"{len(other)} tasks chose an exemplar that has another text here: {some(other)}; set the datamodule's "
            "seed, instances and instructions as they were when the exemplars were chosen"
        )
