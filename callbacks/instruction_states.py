"""Hidden states of human-written, initial and learned instructions, and the distances between them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..datamodules.bilevel.bilevel_stream import BilevelPlan
from ..datamodules.bilevel.exemplars import InstructionInputs
from ..datamodules.instruction_optimization import InstructionOptimizationDataModule
from ..datamodules.rendering.special_tokens import truncating_tokenizer
from ..datamodules.schema import Task
from ..lightning_modules.instruction_optimization import InstructionOptimizationModule
from ..lightning_modules.instructions.exemplar_extraction import require_exemplars
from ..lightning_modules.instructions.instructed_loss import input_embeddings, model_functions
from ..lightning_modules.instructions.learnable_instructions import (
    DirectEmbedder,
    Instruction,
    LearnableInstruction,
    masked_mean,
)
from .report.instruction_distances import category_distances, distance_to_nearest, paired_distance

Choice = set[tuple[int, ...]]
"""Exemplars that are chosen for a task, each as its token ids."""


class InstructionStates(NamedTuple):
    """Mean last hidden states of instructions, of width W.

    Args:
        points: [n, W] for the n inner tasks (those that train the model), by kind of instruction: human, initial,
            learned. Without initial if it is unknown.
        categories: Category of each inner task.
        tests: [m, W], states of the definitions of the m test tasks.
        numbers: Content of `analysis.json`.
    """

    points: dict[str, np.ndarray]
    categories: list[str]
    tests: np.ndarray
    numbers: dict[str, Any]


@torch.no_grad()
def instruction_states(
    module: InstructionOptimizationModule,
    data: InstructionOptimizationDataModule,
    initial: Mapping[str, Tensor] | None,
    tokens: int,
) -> InstructionStates:
    """Compute the current model's hidden states of human-written, initial and learned instructions, and distances.

    The model changes in training as well, so only the difference of the learned instructions from the other two kinds
    shows what was learned.

    Args:
        module: The model and its learned instructions.
        data: The datamodule, after ``setup("fit")``.
        initial: Initial parameters of the instruction; None if they are unknown.
        tokens: Number of nearest tokens to list for each embedding of a direct embedder.
    """
    plan, learned = data.plan, module.instruction
    assert plan is not None
    assert learned is not None
    tasks = [task for task, _ in plan.inner]
    training = module.language_model.training
    module.language_model.eval()
    points = {"human": definition_states(module, [task.definition for task in tasks])}
    moved: dict[str, float] = {}
    points_now, chosen_now = learned_states(module, plan, learned)
    if initial:
        start = copy.deepcopy(learned)
        start.load_state_dict(dict(initial))
        points["initial"], chosen_first = learned_states(module, plan, start)
        moved = {"distance of parameters": parameter_distance(start, learned), **new_choices(chosen_first, chosen_now)}
    points["learned"] = points_now
    names = data.benchmark.task_names("test")
    tests = definition_states(module, [data.benchmark.task(name).definition for name in names])
    module.language_model.train(training)
    categories = [task.category for task in tasks]
    numbers: dict[str, Any] = dict(instruction_distances(points, tests, categories))
    if initial:
        moved["cosine distance of states"] = paired_distance(points["learned"], points["initial"])
        numbers["moved"] = moved
    if isinstance(learned, DirectEmbedder):
        numbers["nearest tokens"] = nearest_tokens(module, tasks, tokens)
    return InstructionStates(points, categories, tests, numbers)


def parameter_distance(start: nn.Module, learned: nn.Module) -> float:
    """Return the Euclidean distance of all parameters from their initial values, divided by the norm of these.

    Args:
        start: Module with the initial parameters.
        learned: The same module after training.
    """
    pairs = [(a.double(), b.double()) for a, b in zip(start.parameters(), learned.parameters(), strict=True)]
    squared = sum(a.square().sum().item() for a, _ in pairs)
    apart = sum((b - a).square().sum().item() for a, b in pairs)
    return (apart / squared) ** 0.5 if squared else 0.0


def new_choices(first: Sequence[Choice], now: Sequence[Choice]) -> dict[str, float]:
    """Return the share of the chosen exemplars, over all tasks, that the initial parameters did not choose.

    >>> new_choices([{(5,), (7,)}, {(5,), (8,)}], [{(7,), (9,)}, {(5,), (8,)}])
    {'share of exemplars not chosen at first': 0.25}

    Args:
        first: Exemplars that the initial parameters choose, for each task.
        now: Exemplars that the learned parameters choose, for each task; if there are none, {} is returned.
    """
    total = sum(map(len, now))
    new = sum(len(one - before) for before, one in zip(first, now, strict=True))
    return {"share of exemplars not chosen at first": new / total} if total else {}


def instruction_distances(
    points: Mapping[str, np.ndarray], tests: np.ndarray, categories: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return cosine distances by kind of instruction: within and between categories, and from test definitions.

    Args:
        points: [n, W], states of the instructions of n tasks, by kind: human, initial, learned.
        tests: [m, W], states of the definitions of m test tasks.
        categories: Category of each of the n tasks.
    """
    return {
        kind: {
            **category_distances(of_kind, categories),
            "distance of test definitions to the nearest": distance_to_nearest(tests, of_kind),
        }
        for kind, of_kind in points.items()
    }


def definition_states(module: InstructionOptimizationModule, texts: Sequence[str]) -> np.ndarray:
    """Return the model's mean last hidden state of each text, [n, W]; texts are read one at a time."""
    assert module.tokenizer is not None
    rows = []
    with truncating_tokenizer(module.tokenizer, module.row_length) as backend:
        encodings = backend.encode_batch_fast([text or " " for text in texts])
    for encoding in encodings:
        ids = torch.tensor([encoding.ids], device=module.device)
        states = model_functions(module.language_model).encode(ids, torch.ones_like(ids))
        rows.append(states.mean(dim=1)[0].double().cpu().numpy())
    return np.stack(rows)


def learned_states(
    module: InstructionOptimizationModule, plan: BilevelPlan, learned: LearnableInstruction
) -> tuple[np.ndarray, list[Choice]]:
    """Compute the learned instruction of each inner task, for the task's first training instance.

    Returns:
        The model's mean last hidden state of each instruction, [n, W], and the exemplars (training examples that serve
        as an instruction) that an extractor chose for each task.
    """
    model, rows, choices = module.language_model, [], []
    for task in range(len(plan.inner)):
        moved = [None if tensor is None else tensor.to(module.device) for tensor in plan.first_batch(task).inputs]
        inputs = InstructionInputs(*moved)  # type: ignore[arg-type]
        instruction = learned(inputs, model_functions(model))
        states = stack_states(model, instruction.embeddings.to(model.dtype), instruction.mask)
        rows.append(masked_mean(states, instruction.mask)[0].double().cpu().numpy())
        choices.append(chosen_tokens(instruction, inputs))
    return np.stack(rows), choices


def chosen_tokens(instruction: Instruction, inputs: InstructionInputs) -> Choice:
    """Return the exemplars that an extractor chose as the instruction of the first instance in a batch, as token ids.

    The set is empty if the instruction is embeddings, and not exemplars.
    """
    if instruction.chosen is None:
        return set()
    ids_BNC, mask_BNC = require_exemplars(inputs)
    places = [place for place in instruction.chosen[0].tolist() if place >= 0]
    return {tuple(ids_BNC[0, place][mask_BNC[0, place].bool()].tolist()) for place in places}


def stack_states(model: Any, embeddings: Tensor, mask: Tensor) -> Tensor:
    """Return the last hidden states of the encoder, or of a decoder-only model, for given input embeddings.

    Args:
        model: The language model.
        embeddings: [B, I, D], I embeddings of each of B instructions.
        mask: [B, I], 0 at padding.

    Returns:
        States [B, I, W].
    """
    stack: nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    extra = {} if model.config.is_encoder_decoder else {"use_cache": False}
    return stack(inputs_embeds=embeddings, attention_mask=mask, **extra).last_hidden_state


def nearest_tokens(
    module: InstructionOptimizationModule, tasks: Sequence[Task], count: int
) -> dict[str, list[list[str]]]:
    """Return, by task, the `count` tokens whose input embeddings are nearest by cosine to each learned embedding.

    Args:
        module: The module, whose instruction is a direct embedder: a table of free embeddings for each task.
        tasks: The inner tasks, in the order of the table's rows.
        count: Number of tokens for each embedding.
    """
    assert isinstance(module.instruction, DirectEmbedder)
    assert module.tokenizer is not None
    table: Any = input_embeddings(module.language_model).weight
    table_VD = torch.nn.functional.normalize(table.float(), dim=-1)
    tokens = module.tokenizer.convert_ids_to_tokens(range(len(module.tokenizer)))  # type: ignore[arg-type]
    nearest: dict[str, list[list[str]]] = {}
    for task, embeddings_ID in zip(tasks, module.instruction.table.to(table_VD.dtype), strict=False):
        best = (torch.nn.functional.normalize(embeddings_ID, dim=-1) @ table_VD.T).topk(count, dim=-1).indices
        nearest[task.name] = [[str(tokens[id]) for id in row] for row in best.tolist()]
    return nearest
