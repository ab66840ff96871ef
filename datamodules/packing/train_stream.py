"""The training stream: the plan of windows, rows and optimizer steps, and a replica's batches of it.

A window is a number of successive draws that are packed together. Its rows are a pure function of (seed, window,
lengths), so that every replica computes the same plan and takes its share of it. A position in the stream is two
integers, (window, row), and costs the same anywhere. The number of target tokens of a step needs no communication
between replicas.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..mixture.draws import Mixture
from ..schema import TokenizedExample
from ..storage.stored_tasks import StoredTasks
from .best_fit import PackedRows, Packing
from .collate import RowBatch, RowKind
from .document_groups import Groups, pack_together
from .replicas import Replicas


class Position(NamedTuple):
    """Position of the next row to train, which a checkpoint stores: row `row` of window `window`, both from 0.

    A window is a number of successive draws of documents that are packed together.
    """

    window: int = 0
    row: int = 0


class WindowPlan(NamedTuple):
    """Which documents are in which row, for one window: successive draws of documents that are packed together.

    Draw i is document ``examples[i]`` of task ``tasks[i]``.

    Args:
        tasks: int64 [draws], index of each draw's task.
        examples: int64 [draws], index of each draw's document within its task.
        rows: Indices of the draws in each row.
        row_targets: int64 [rows], number of target tokens of a row; number of groups if documents are drawn in groups.
        row_costs: float64 [rows], sum of squared document sizes of a row, proportional to the cost of attention.
        groups: int64 [draws], number of each draw's group within the window; None if single documents are drawn.
    """

    tasks: NDArray[np.int64]
    examples: NDArray[np.int64]
    rows: PackedRows
    row_targets: NDArray[np.int64]
    row_costs: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None


class Row(NamedTuple):
    """A packed row before its tokens are read: which documents it holds, and what it contributes to a step.

    Args:
        documents: (task, index within the task) of each document.
        targets: Number of target tokens; if documents are drawn in groups, number of groups. The loss of an optimizer
            step is a mean over these.
        cost: Sum of squared document sizes, proportional to the cost of attention.
        groups: Number of each document's group within the window; None if single documents are drawn.
    """

    documents: tuple[tuple[int, int], ...]
    targets: int
    cost: float
    groups: tuple[int, ...] | None = None


class TrainPlan:
    """Computes which documents are in each row and each optimizer step of a training, before tokens are read.

    Documents are drawn from the mixture and packed in windows of successive draws. The plan is a function of seed,
    rates and lengths, so that every process computes the same one.

    Args:
        stored: Tokenized examples (documents) of the tasks, in the order of the mixture's tasks.
        mixture: Draws of documents, or of groups if `groups` is given.
        kind: Builds the rows of a batch, for a decoder-only model, an encoder-decoder or a scorer.
        packing: Function that packs documents into rows.
        rows_per_step: Rows of one optimizer step, over all replicas.
        groups: Groups of documents to draw and pack together; None for single documents.
    """

    def __init__(
        self,
        stored: StoredTasks,
        mixture: Mixture,
        kind: RowKind,
        packing: Packing,
        rows_per_step: int,
        groups: Groups | None = None,
    ) -> None:
        if rows_per_step < 1:
            raise ValueError(f"rows.per_step must be at least 1, got {rows_per_step}")
        self.stored, self.mixture, self.kind = stored, mixture, kind
        self.packing, self.rows_per_step, self.groups = packing, rows_per_step, groups
        self._cached: tuple[int, WindowPlan] | None = None

    def window(self, index: int) -> WindowPlan:
        """Return which documents are in which row of a window; the last result is cached.

        Args:
            index: Index of the window, from 0; a window is successive draws that are packed together.
        """
        if self._cached is None or self._cached[0] != index:
            self._cached = (index, self._plan(index))
        return self._cached[1]

    def lengths(self, plan: WindowPlan) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the numbers of tokens and of source tokens of each drawn document, int32 [draws] each.

        Args:
            plan: Plan of the window in which they were drawn.
        """
        return self._measures(plan.tasks, plan.examples)

    def _plan(self, index: int) -> WindowPlan:
        tasks, examples = self.mixture.draws(index)
        groups = None
        if self.groups is not None:
            groups, tasks, examples = self.groups.members(tasks, examples)
        lengths, n_sources = self._measures(tasks, examples)
        sizes = self.kind.sizes(lengths, n_sources)
        generator = np.random.default_rng([self.mixture.seed, index])
        if groups is None or not len(groups):
            rows = self.packing(sizes, self.kind.capacity, generator)
            holes = self.stored.holes_at(self.stored.firsts[tasks] + examples)
            targets = self.kind.target_counts(lengths, n_sources, holes).astype(np.int64)
        else:
            rows = pack_together(self.packing, groups, sizes, self.kind.capacity, generator)
            targets = np.diff(groups, prepend=-1)  # 1 at the first document of each group
        if len(rows) == 0:
            return WindowPlan(tasks, examples, rows, np.empty(0, np.int64), np.empty(0), groups)
        row_targets = np.add.reduceat(targets[rows.order], rows.starts[:-1])
        row_costs = np.add.reduceat(sizes[rows.order].astype(np.float64) ** 2, rows.starts[:-1])
        return WindowPlan(tasks, examples, rows, row_targets, row_costs, groups)

    def _measures(
        self, tasks: NDArray[np.int64], examples: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        places = self.stored.firsts[tasks] + examples
        return np.asarray(self.stored.lengths[places]), np.asarray(self.stored.n_sources[places])

    def step(self, position: Position) -> tuple[list[Row], Position]:
        """Return the rows of the optimizer step that begins at a position, and the position after them.

        A step may take rows from two windows (draws that are packed together), so that every row is trained.
        """
        taken: list[Row] = []
        window, row = position
        while len(taken) < self.rows_per_step:
            plan = self.window(window)
            last = min(row + self.rows_per_step - len(taken), len(plan.rows))
            taken.extend(self._row(plan, r) for r in range(row, last))
            window, row = (window, last) if last < len(plan.rows) else (window + 1, 0)
        return taken, Position(window, row)

    def _row(self, plan: WindowPlan, index: int) -> Row:
        draws = plan.rows.row(index)
        documents = zip(plan.tasks[draws].tolist(), plan.examples[draws].tolist(), strict=True)
        groups = None if plan.groups is None else tuple(plan.groups[draws].tolist())
        return Row(tuple(documents), int(plan.row_targets[index]), float(plan.row_costs[index]), groups)

    def documents(self, row: Row) -> list[TokenizedExample]:
        """Read the tokens of the documents in a row; each gets the number of its group if documents are grouped."""
        documents = [self.stored.document(task, example) for task, example in row.documents]
        groups = row.groups or [None] * len(documents)
        return [document._replace(group=group) for document, group in zip(documents, groups, strict=True)]


def balanced_batches(costs: Sequence[float], parts: int) -> list[list[int]]:
    """Divide rows into `parts` batches with equal numbers of rows and nearly equal sums of costs.

    Rows are assigned in the order of falling cost, each to the batch with the lowest sum that is not full. Replicas
    then take about the same time. The indices of each batch's rows are returned in ascending order.

    Args:
        costs: Cost of each row.
        parts: Number of batches, a divisor of the number of rows.

    >>> balanced_batches([9.0, 1.0, 8.0, 2.0], parts=2)
    [[0, 1], [2, 3]]
    """
    room, batches, sums = len(costs) // parts, [[] for _ in range(parts)], [0.0] * parts  # type: ignore[var-annotated]
    for row in sorted(range(len(costs)), key=lambda r: (-costs[r], r)):
        cheapest = min((p for p in range(parts) if len(batches[p]) < room), key=lambda p: (sums[p], p))
        batches[cheapest].append(row)
        sums[cheapest] += costs[row]
    return [sorted(batch) for batch in batches]


class TrainStream:
    """Iterable of one replica's training batches; an optimizer step has the same rows for any number of replicas.

    It replaces a DataLoader. Rows are read from memory maps in the main process, so that there are no workers whose
    state could be lost. Its state is the position after the last complete optimizer step, which is valid for any number
    of replicas. Its length is the batches of `steps` optimizer steps; iteration continues beyond it without an end.

    Args:
        plan: Plan of the training stream.
        replicas: This process's replica.
        steps: Optimizer steps of the training.

    Raises:
        ValueError: The rows of a step are not a multiple of its batches.
    """

    def __init__(self, plan: TrainPlan, replicas: Replicas, steps: int) -> None:
        replicas.rows_per_batch(plan.rows_per_step)
        self.plan, self.replicas, self.steps = plan, replicas, steps
        self.position = Position()
        self.documents: list[tuple[int, int]] = []
        """(task, document) of every document in the current optimizer step, over all replicas."""

    def __len__(self) -> int:
        return self.steps * self.replicas.accumulation

    def __iter__(self) -> Iterator[RowBatch]:
        while True:
            rows, following = self.plan.step(self.position)
            batches = self._batches(rows)  # made one by one, while the device computes the one before
            self.documents = [document for row in rows for document in row.documents]
            yield from islice(batches, self.replicas.accumulation - 1)
            last = next(batches)
            self.position = following  # before the last batch: a checkpoint is saved after its step
            yield last

    def _batches(self, rows: list[Row]) -> Iterator[RowBatch]:
        step_targets = sum(row.targets for row in rows)
        batches = balanced_batches([row.cost for row in rows], self.replicas.size * self.replicas.accumulation)
        for mine in self.replicas.share(batches):
            documents = [self.plan.documents(rows[r]) for r in mine]
            yield self.plan.kind.collate(documents, step_targets)

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last complete optimizer step."""
        return {"window": self.position.window, "row": self.position.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = Position(state["window"], state["row"])
