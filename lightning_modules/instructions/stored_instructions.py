r"""Learned instructions as files: their parameters, and a description of the tasks and model they belong to.

A folder holds ``instructions.safetensors``, the parameters and buffers of the instruction, and ``instructions.json``::

    {"kind": "direct_extractor", "length": 128, "exemplars": 32, "width": 768, "tokenizer": "google/t5-base-lm-adapt",
     "demonstrations": 0, "tasks": ["task1147_country_currency", ...],
     "chosen": {"task1147_country_currency":
                [{"exemplar": 3, "id": "task1147-2f...", "text": " Positive Example -\\n..."}], ...}}

``chosen`` is present if each task chooses exemplars: one, or as many as there are demonstrations, in their order.
``vocabulary`` is present if the instruction has a table with one row per token: the digest of the tokens and their ids.
Parameters with one row per task have them in the order of ``tasks``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ...datamodules.atomic_files import write_whole
from ...datamodules.bilevel.exemplars import TaskExemplar
from ...datamodules.data_files import read_json
from ...datamodules.finite_values import require_finite_weights
from ...datamodules.messages import some
from ...datamodules.rendering.chosen_demonstrations import DESCRIPTION, FOLDER
from ...datamodules.rendering.tokenization import vocabulary_digest
from .learnable_instructions import DirectExtractor, LearnableInstruction

VALUES = "instructions.safetensors"
EXPORT_AGAIN = "export the checkpoint again"

Description = Mapping[str, Any]
"""The plain values above."""


class StoredInstructions(NamedTuple):
    """Learned instructions that were read from a folder.

    Args:
        description: The content of ``instructions.json``.
        values: The parameters and buffers of the instruction, by name.
    """

    description: Description
    values: dict[str, Tensor]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the parameters' rows."""
        return list(self.description["tasks"])


def chosen_exemplars(
    instruction: LearnableInstruction, tasks: Sequence[str], exemplars: Sequence[Sequence[TaskExemplar]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the exemplars that a learned instruction chooses for each task, with their texts, by task name.

    It is empty for instructions that do not choose exemplars by task.

    Args:
        instruction: The instruction.
        tasks: Names of the inner tasks.
        exemplars: Exemplars of each task; empty if exemplars belong to instances.
    """
    if not isinstance(instruction, DirectExtractor) or not exemplars:
        return {}
    orders = instruction.logits.detach()[:, 0].argsort(dim=1, descending=True, stable=True).tolist()
    return {
        task: [{"exemplar": place, **of_task[place]._asdict()} for place in first_of_texts(order, of_task)[:number]]
        for number in [instruction.number]
        for task, order, of_task in zip(tasks, orders, exemplars, strict=True)
    }


def first_of_texts(order: Sequence[int], exemplars: Sequence[TaskExemplar]) -> list[int]:
    """Return indices of exemplars in the given order, without those that do not exist or repeat an earlier text.

    >>> first_of_texts([3, 1, 0, 2], [TaskExemplar("a", "x"), TaskExemplar("b", "y"), TaskExemplar("c", "y")])
    [1, 0]
    """
    texts: dict[str, int] = {}
    for place in order:
        if place < len(exemplars):
            texts.setdefault(exemplars[place].text, place)
    return list(texts.values())


def write_instructions(folder: Path, description: Description, values: Mapping[str, Tensor]) -> None:
    """Write learned instructions into a folder, which is created: a safetensors file and a JSON file.

    Args:
        folder: Output folder.
        description: Kind, sizes and tasks of the instructions, as plain values.
        values: Their parameters and buffers, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, folder / VALUES)
    write_whole(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False))


def read_instructions(folder: Path) -> StoredInstructions:
    """Return the learned instructions of a folder, or those in an exported model's folder.

    Raises:
        ValueError: There are none, or a file is damaged.
    """
    place = folder if (folder / DESCRIPTION).is_file() else folder / FOLDER
    if not (place / DESCRIPTION).is_file() or not (place / VALUES).is_file():
        raise ValueError(
            f"no learned instructions in {folder}: expected {DESCRIPTION} and {VALUES} there or in its folder "
            f"{FOLDER}, as `crosstask export CHECKPOINT FOLDER` writes them"
        )
    described = read_json(place / DESCRIPTION)
    if not is_description(described):
        raise ValueError(f"{place / DESCRIPTION} does not describe learned instructions; {EXPORT_AGAIN}")
    try:
        values = load_file(place / VALUES)
    except SafetensorError as error:
        raise ValueError(f"{place / VALUES} is damaged ({error}); {EXPORT_AGAIN}") from error
    require_finite_weights(values.items(), place / VALUES)
    return StoredInstructions(described, values)


def is_description(content: Any) -> bool:
    """Return whether the content of a file has the fields of a description of learned instructions."""
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
        return False
    tasks, chosen = content.get("tasks"), content.get("chosen", {})
    return (
        isinstance(tasks, list)
        and all(isinstance(task, str) for task in tasks)
        and isinstance(chosen, dict)
        and all(isinstance(of_task, list) and all(map(_is_choice, of_task)) for of_task in chosen.values())
    )


def _is_choice(one: Any) -> bool:
    texts = isinstance(one, dict) and isinstance(one.get("id"), str) and isinstance(one.get("text"), str)
    return texts and type(one.get("exemplar")) is int


@torch.no_grad()
def apply_stored(
    instruction: LearnableInstruction, stored: StoredInstructions, kind: str, tasks: Sequence[str]
) -> list[str]:
    """Set an instruction's parameters and buffers to stored values; return the tasks that have no stored values.

    Rows of such tasks do not change.

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
    current = instruction.state_dict(keep_vars=True)  # parameters and buffers, in place
    if unread := sorted(stored.values.keys() - current.keys()):
        raise ValueError(
            f"the stored instructions have values that {kind} lacks: {some(unread)}; use the class and the options "
            "that they were learned with"
        )
    for name, parameter in current.items():
        by_task = name in instruction.task_parameters
        value = stored.values.get(name)
        if by_task and value is not None and len(value) != len(rows):
            raise ValueError(f"the stored {name} has {len(value)} rows for {len(rows)} tasks; {EXPORT_AGAIN}")
        if value is None or value.shape[by_task:] != parameter.shape[by_task:]:
            sizes = "missing" if value is None else tuple(value.shape[by_task:])
            raise ValueError(
                f"the stored {name} is {sizes}, and this run's {tuple(parameter.shape[by_task:])}: instructions apply "
                "to models of one width, with the length, exemplars and options that they were learned with"
            )
        if by_task:
            parameter[here] = value[there].to(parameter)
        else:
            parameter.copy_(value)
    return [task for task in tasks if task not in rows] if instruction.task_parameters else []


def described_vocabulary(instruction: LearnableInstruction, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return ``{"vocabulary": digest}`` if the instruction has a table with one row per token; empty otherwise."""
    tables = [
        f"{name}.weight"
        for name, part in instruction.named_modules()
        if isinstance(part, nn.Embedding) and part.num_embeddings >= len(tokenizer)
    ]
    reads_tokens = any(name not in instruction.task_parameters for name in tables)
    return {"vocabulary": vocabulary_digest(tokenizer)} if reads_tokens else {}


def require_same_vocabulary(description: Description, tokenizer: PreTrainedTokenizerBase) -> None:
    """Reject learned instructions whose table of tokens belongs to another tokenizer, also to one of equal size.

    Raises:
        ValueError: With the name of the tokenizer that the instructions were learned with.
    """
    if description.get("vocabulary", None) not in (None, vocabulary_digest(tokenizer)):
        raise ValueError(
            f"the instructions are computed from token ids of the tokenizer {description.get('tokenizer')!r} at its "
            "state then, and the same ids are other tokens here: set `tokenizer` to that of their training"
        )


def require_same_exemplars(
    stored: StoredInstructions, tasks: Sequence[str], exemplars: Sequence[Sequence[TaskExemplar]]
) -> None:
    """Reject stored instructions that choose exemplars by index, if this run has other texts at these indices.

    Args:
        stored: The stored instructions.
        tasks: Names of this run's inner tasks.
        exemplars: This run's exemplars of each task.

    Raises:
        ValueError: With the tasks whose chosen exemplar has another text here.
    """
    chosen: Mapping[str, Any] = stored.description.get("chosen", {})
    other = [
        task
        for task, of_task in zip(tasks, exemplars, strict=False)
        if any(one["text"] != _text_at(of_task, one["exemplar"]) for one in chosen.get(task, ()))
    ]
    if other:
        raise ValueError(
            f"{len(other)} tasks chose an exemplar that has another text here: {some(other)}; set the datamodule's "
            "seed, instances and instructions as they were when the exemplars were chosen"
        )


def _text_at(exemplars: Sequence[TaskExemplar], place: int) -> str | None:
    return exemplars[place].text if place < len(exemplars) else None
