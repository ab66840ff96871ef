"""Inspection of a run's data (`crosstask inspect`): documents, packed rows, lengths and the mixture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..base import BenchmarkDataModule
from ..instruction_optimization import InstructionOptimizationDataModule
from ..messages import nearest
from ..packing.collate import RowKind
from ..packing.mixture_plan import MixturePlan
from ..packing.train_stream import Position
from ..schema import Example
from ..scoring.pair_rows import PairFrame, ScoredRows
from ..storage.store import StoredTask
from ..storage.stored_tasks import StoredTasks
from ..storage.training_tasks import TrainingTasks
from ..stored_training import StoredDataModule
from .bilevel_inspection import bilevel_lengths, first_bilevel_batch, task_instances
from .evaluated_prompts import evaluated_documents
from .lengths import DocumentLengths, histograms
from .read_rows import ReadRow, read_batch
from .shown_documents import ShownDocument, first_of_template


class ShownRow(NamedTuple):
    """Packed row that `crosstask inspect` shows, and which examples it holds.

    Args:
        row: The row as text.
        titles: (task, example id) of each document.
    """

    row: ReadRow
    titles: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Inspection:
    """Result of `crosstask inspect`: inputs of a model as text, their lengths, and the mixture of tasks.

    `rows`, `numbers` and `mixture` are empty if one task is inspected, not a run.

    Args:
        documents: Examples that are shown in full.
        rows: Rows of the first optimizer step; empty if rows are not packed.
        lengths: Lengths of the training documents; None if the inspected task is only evaluated.
        numbers: (quantity, value) of each line of the report of an epoch.
        mixture: Lines of the table of benchmarks, categories and tasks, with their expected draws.
    """

    documents: Sequence[ShownDocument]
    rows: Sequence[ShownRow] = ()
    lengths: DocumentLengths | None = None
    numbers: Sequence[tuple[str, str]] = field(default_factory=list)
    mixture: Sequence[str] = field(default_factory=list)


def inspect_run(data: BenchmarkDataModule, *, examples: int, rows: int, steps: int | None, depth: int) -> Inspection:
    """Return the first examples and packed rows of a training as text, with lengths and the mixture of tasks.

    Args:
        data: The run's datamodule; tasks that its store lacks are prepared.
        examples: Number of documents to show in full; of instruction optimization, for each level.
        rows: Number of packed rows to show.
        steps: Optimizer steps of the run, from which expected draws are computed; None for the trainer's, or an epoch.
        depth: Depth of the mixture's tree: 1 for benchmarks or levels, 2 for categories, 3 for tasks.
    """
    data.prepare_data()
    data.setup("fit")
    numbers, mixture = data.report().lines(), data.describe(steps).lines(depth)
    if isinstance(data, InstructionOptimizationDataModule):
        return Inspection(first_bilevel_batch(data, examples), (), bilevel_lengths(data), numbers, mixture)
    assert isinstance(data, StoredDataModule)
    assert isinstance(data.plan, MixturePlan)
    first_rows = _first_rows(data, data.plan, rows)
    documents = [
        ShownDocument(*title, document)
        for shown in first_rows
        for title, document in zip(shown.titles, shown.row.documents, strict=True)
    ]
    lengths = _stored_lengths(data.row_kind, data.plan.stored)
    return Inspection(documents[:examples], first_rows, lengths, numbers, mixture)


def inspect_task(data: BenchmarkDataModule, name: str, *, template: str | None, examples: int) -> Inspection:
    """Return the first training examples or evaluated prompts of one task as the model reads them.

    Only this task is tokenized if it is not on disk yet.

    Args:
        data: The run's datamodule.
        name: Name of a training task, or of an evaluated task, whose prompts are shown.
        template: Template of the examples; None for any.
        examples: Number of documents to show in full.

    Raises:
        ValueError: There is no such task or template, or the task has no documents.
    """
    names = data.task_names()
    known = sorted({each for of_split in names.values() for each in of_split})
    if name not in known:
        raise ValueError(
            f"the benchmark lists no task {name!r} for training or evaluation, {nearest(name, known)}; "
            "`crosstask describe` lists those that train"
        )
    if name not in names["train"]:
        return Inspection(evaluated_documents(data, name, template, examples))
    if isinstance(data, InstructionOptimizationDataModule):
        data.setup("fit")
        return Inspection(task_instances(data, name, template, examples), lengths=bilevel_lengths(data, name))
    assert isinstance(data, StoredDataModule)
    tasks = TrainingTasks(data.preparation, {**names, "train": [name]})
    tasks.prepare(data.processes)
    stored = tasks.open([name])[0]
    if not len(stored):
        raise ValueError(f"task {name!r} has no training document; examples skipped: {dict(stored.skipped)}")
    shown = first_of_template(name, tasks.document_examples(name, stored), template, examples)
    return Inspection(_documents(data, stored, shown), lengths=_stored_lengths(data.row_kind, stored))


def _frame(kind: RowKind) -> PairFrame | None:
    return kind.frame if isinstance(kind, ScoredRows) else None


def _first_rows(data: StoredDataModule, plan: MixturePlan, number: int) -> list[ShownRow]:
    """Return the first rows of the first optimizer step."""
    rows = plan.step(Position())[0][:number]
    if not rows:
        return []
    documents = [plan.documents(row) for row in rows]
    batch = plan.kind.collate(documents, sum(row.targets for row in rows))
    read = read_batch(batch, [len(each) for each in documents], data.preparation.tokenizer, _frame(plan.kind))
    drawn = {task for row in rows for task, _ in row.documents}
    made_of = {task: _document_examples(data, plan, task) for task in drawn}
    return [
        ShownRow(each, tuple((plan.mixture.names[task], made_of[task][index].id) for task, index in row.documents))
        for each, row in zip(read, rows, strict=True)
    ]


def _document_examples(data: StoredDataModule, plan: MixturePlan, task: int) -> list[Example]:
    return data.training_tasks.document_examples(plan.mixture.names[task], plan.stored[task])


def _documents(data: StoredDataModule, stored: StoredTask, shown: Sequence[tuple[int, Example]]) -> list[ShownDocument]:
    """Return documents of a task, each collated into a row by itself, as in training."""
    kind, tokenizer = data.row_kind, data.preparation.tokenizer
    documents = [stored.document(place) for place, _ in shown]
    read = read_batch(kind.collate([[each] for each in documents], 1), [1] * len(documents), tokenizer, _frame(kind))
    return [
        ShownDocument(example.task, example.id, row.documents[0], template=example.template or "", stored=len(ids))
        for row, (_, example), (ids, *_) in zip(read, shown, documents, strict=True)
    ]


def _stored_lengths(kind: RowKind, stored: StoredTask | StoredTasks) -> DocumentLengths:
    """Return the lengths of the documents of one task or of all."""
    lengths, n_sources = np.asarray(stored.lengths), np.asarray(stored.n_sources)
    cuts = kind.cuts(lengths, n_sources)
    skipped: dict[str, int] = {}
    for reasons in [stored.skipped] if isinstance(stored, StoredTask) else stored.skipped:
        for reason, count in reasons.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return DocumentLengths(
        len(lengths),
        len(lengths),
        histograms(kind, lengths, n_sources),
        int(np.count_nonzero(cuts.truncated)),
        int(np.count_nonzero(cuts.target_cut)),
        skipped,
    )
