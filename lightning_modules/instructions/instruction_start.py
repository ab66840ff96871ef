"""Initial values of a learnable instruction: random, stored, or embedded human-written definitions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.bilevel.exemplars import TaskExemplar
from ...datamodules.messages import expanded, some
from ...datamodules.schema import Task
from .instructed_loss import input_embeddings
from .learnable_instructions import DirectEmbedder, LearnableInstruction
from .stored_instructions import apply_stored, read_instructions, require_same_exemplars, require_same_vocabulary


@dataclass(frozen=True)
class InstructionStart:
    """Initial values of a learnable instruction; random by default.

    Args:
        stored: Folder of learned instructions to start from, as `crosstask export` writes it. None for other initial
            values.
        definitions: Start a direct_embedder from the input embeddings of the tasks' human-written definitions. A
            definition shorter than the instruction is repeated; a longer one loses its end.
        noise: Standard deviation of Gaussian noise added to the initial values, as a share of each parameter's root
            mean square.
        frozen: Keep the instruction at its initial values and train the model only. With `stored`, this tests whether
            instructions transfer to another model.
    """

    stored: str | None = None
    definitions: bool = False
    noise: float = 0.0
    frozen: bool = False

    def __post_init__(self) -> None:
        if self.stored is not None and self.definitions:
            raise ValueError("instruction.start has stored and definitions: set one of them")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"instruction.start.noise must be a share of 0 or more, and finite, got {self.noise}")


@torch.no_grad()
def start_instruction(
    start: InstructionStart,
    instruction: LearnableInstruction,
    kind: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    exemplars: Sequence[Sequence[TaskExemplar]],
) -> None:
    """Set the parameters of a learnable instruction to their initial values, in place.

    Args:
        start: Which initial values to take.
        instruction: The instruction whose parameters are set.
        kind: The instruction's kind, as in ``InstructionSettings.kind``.
        model: The language model, whose table embeds definitions. If it is sharded, every process must call this
            function.
        tokenizer: Tokenizer of the model.
        tasks: The inner tasks, in the order of the instruction's rows.
        exemplars: Exemplars of each task; empty if exemplars belong to instances.

    Raises:
        ValueError: The kind cannot start so, stored values do not fit, or a frozen instruction lacks tasks.
    """
    if start.stored is not None:
        stored = read_instructions(expanded(start.stored))
        names = [task.name for task in tasks]
        require_same_vocabulary(stored.description, tokenizer)
        require_same_exemplars(stored, names, exemplars)
        if missing := apply_stored(instruction, stored, kind, names):
            state = f"{len(missing)} of {len(tasks)} inner tasks have no stored instruction: {some(missing)}"
            if start.frozen:
                raise ValueError(f"{state}; set the datamodule's split as it was, or frozen to false")
            rank_zero_info(f"{state}; they start at random values")
    if start.definitions:
        if not isinstance(instruction, DirectEmbedder):
            raise ValueError(f"only a direct_embedder starts from definitions, and instruction.kind is {kind}")
        embedded = embedded_definitions(model, tokenizer, tasks, instruction.table.shape[1])
        instruction.table.copy_(embedded)
    if start.noise:
        for parameter in instruction.parameters():
            parameter.add_(torch.randn_like(parameter) * (start.noise * parameter.square().mean().sqrt()))
    instruction.requires_grad_(not start.frozen)


def embedded_definitions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], length: int
) -> Tensor:
    """Return the input embeddings of the tasks' definitions, [tasks, length, D].

    Short definitions are repeated; long ones lose their end.

    Raises:
        ValueError: A task has no definition.
    """
    table: Any = input_embeddings(model).weight
    table_VD = (table.full_tensor() if isinstance(table, DTensor) else table).detach()
    rows = []
    for task in tasks:
        ids = tokenizer(task.definition.strip(), add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"task {task.name!r} has no definition to start from: set instruction.start otherwise")
        repeated = (ids * -(-length // len(ids)))[:length]
        rows.append(table_VD[torch.tensor(repeated, device=table_VD.device)])
    return torch.stack(rows)
