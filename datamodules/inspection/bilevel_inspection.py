"""Inspection of instruction optimization: inner and outer instances as text, with the inputs of instructions."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..bilevel.bilevel_report import TaskInstances
from ..bilevel.bilevel_stream import BilevelPlan
from ..bilevel.exemplars import InstructionInputs
from ..bilevel.level_instances import Instance
from ..instruction_optimization import InstructionOptimizationDataModule
from ..schema import Prompt
from .lengths import DocumentLengths, histograms
from .read_rows import ReadDocument, Side, read_batch, text_side
from .shown_documents import ShownDocument, first_of_template

HEAD = "before the demonstrations"
MOST_MEASURED = 2000
"""Maximum number of instances that are tokenized for histograms; documents of this method are not stored."""


def first_bilevel_batch(data: InstructionOptimizationDataModule, number: int) -> list[ShownDocument]:
    """Return the first training instances of instruction optimization as text, in the order of training.

    Args:
        data: The run's datamodule, after ``setup("fit")``.
        number: Number of instances of each level: inner (they train the model), then outer (they train the
            instruction).
    """
    plan = _plan(data)
    levels = {"inner": plan.inner, "outer": plan.outer}
    return [
        document
        for level, tasks in levels.items()
        for document in _shown(data, level, tasks, plan.first_drawn(tasks, number))
    ]


def task_instances(
    data: InstructionOptimizationDataModule, name: str, template: str | None, number: int
) -> list[ShownDocument]:
    """Return the first training instances of a task in instruction optimization, as text.

    Args:
        data: The run's datamodule, after ``setup("fit")``.
        name: Name of a training task.
        template: Template of the instances; None for any.
        number: Number of instances.
    """
    level, tasks, place = _place(data, name)
    chosen = first_of_template(name, tasks[place].examples, template, number)
    return _shown(data, level, tasks, [Instance(place, index) for index, _ in chosen])


def bilevel_lengths(data: InstructionOptimizationDataModule, name: str | None = None) -> DocumentLengths:
    """Return histograms of the lengths of instruction optimization's training instances.

    At most ``MOST_MEASURED`` instances are tokenized, evenly spread over all.

    Args:
        data: The run's datamodule, after ``setup("fit")``.
        name: Name of a training task; None for all.
    """
    plan = _plan(data)
    instances = [
        (tasks, Instance(place, index))
        for tasks in (plan.inner, plan.outer)
        for place, (task, examples) in enumerate(tasks)
        if name in (None, task.name)
        for index in range(len(examples))
    ]
    measured = instances[:: -(-len(instances) // MOST_MEASURED)] if instances else []
    documents = data.preparation.tokenize([plan.rows.prompt(tasks, instance) for tasks, instance in measured])
    lengths = np.array([len(document.input_ids) for document in documents])
    n_sources = np.array([document.n_source for document in documents])
    kind = plan.text.rows
    cuts = kind.cuts(lengths, n_sources)
    cut, target_cut = (int(np.count_nonzero(each)) for each in (cuts.truncated, cuts.target_cut))
    return DocumentLengths(
        len(measured), len(instances), histograms(kind, lengths, n_sources), cut, target_cut, plan.skipped
    )


def _plan(data: InstructionOptimizationDataModule) -> BilevelPlan:
    assert data.plan is not None
    return data.plan


def _place(data: InstructionOptimizationDataModule, name: str) -> tuple[str, Sequence[TaskInstances], int]:
    """Return the level of a training task, the tasks of this level, and the task's index among them."""
    plan = _plan(data)
    level, tasks = ("inner", plan.inner) if name in data.inner_tasks else ("outer", plan.outer)
    return level, tasks, [task.name for task, _ in tasks].index(name)


def _shown(
    data: InstructionOptimizationDataModule, level: str, tasks: Sequence[TaskInstances], instances: Sequence[Instance]
) -> list[ShownDocument]:
    if not instances:
        return []
    tokenizer = data.preparation.tokenizer
    rows, inputs = _plan(data).task_rows(tasks, instances)
    shown = []
    for place, row in enumerate(read_batch(rows, [1] * len(instances), tokenizer)):
        task, index = instances[place]
        example, document = tasks[task].examples[index], row.documents[0]
        sides = (*_input_sides(inputs, place, tokenizer), *document.sides)
        if inputs is not None and inputs.head_ids is not None:
            prompt = _plan(data).rows.prompt(tasks, instances[place])
            sides = (*sides, _whole_side(prompt, data))
        shown.append(
            ShownDocument(example.task, example.id, ReadDocument(sides), level=level, template=example.template or "")
        )
    return shown


def _input_sides(inputs: InstructionInputs | None, place: int, tokenizer: PreTrainedTokenizerBase) -> list[Side]:
    """Return the texts from which the learnable instruction of an inner instance is computed."""
    if inputs is None:
        return []
    sides = [
        _masked_side("z, from which its instruction is computed", inputs.pair_ids, inputs.pair_mask, place, tokenizer)
    ]
    if inputs.exemplar_ids is not None and inputs.exemplar_mask is not None:
        for number in range(inputs.exemplar_ids.shape[1]):
            ids, mask = inputs.exemplar_ids[:, number], inputs.exemplar_mask[:, number]
            if not mask[place].any():
                continue
            sides.append(_masked_side(f"exemplar {number + 1}", ids, mask, place, tokenizer))
    if inputs.head_ids is not None and inputs.head_mask is not None:
        sides.append(_masked_side(HEAD, inputs.head_ids, inputs.head_mask, place, tokenizer))
    return sides


def _whole_side(prompt: Prompt, data: InstructionOptimizationDataModule) -> Side:
    [ids] = data.preparation.tokenize_sources([prompt])
    name = f"source with its first {data.instructions.demonstrations} exemplars as demonstrations"
    return text_side(name, ids, None, data.preparation.tokenizer)


def _masked_side(name: str, ids: Tensor, mask: Tensor, place: int, tokenizer: PreTrainedTokenizerBase) -> Side:
    return text_side(name, ids[place][mask[place].bool()].tolist(), None, tokenizer)
