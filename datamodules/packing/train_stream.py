"""The training stream: a plan, not a generator.

The place of every example in the rows is a pure function of (seed, window, lengths). Every replica computes
the same plan and takes its own part of it. A position is two integers, any position is reached at once, and replicas
need no communication to know a step's number of target tokens.
"""

from collections.abc import Iterator, Sequence
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
    """The next row to be trained: row `row` of window `window`."""

    window: int = 0
    row: int = 0


class WindowPlan(NamedTuple):
    """One window of draws, arranged. Draw i is example ``examples[i]`` of task ``tasks[i]``.

    Args:
        tasks: int64 [draws].
        examples: int64 [draws].
        rows: Which draws share a row.
        row_targets: int64 [rows], target tokens; where documents are drawn in groups, groups.
        row_costs: float64 [rows], sum of squared document sizes, which attention is proportional to.
        groups: int64 [draws], which of them were drawn together; None where each is drawn by itself.
    """

    tasks: NDArray[np.int64]
    examples: NDArray[np.int64]
    rows: PackedRows
    row_targets: NDArray[np.int64]
    row_costs: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None


class Row(NamedTuple):
    """One planned row: (task, example) of each document, its target tokens, its cost, and each document's group.

    Where documents are drawn in groups, `targets` counts those: it is what the step's loss is a mean over.
    """

    documents: tuple[tuple[int, int], ...]
    targets: int
    cost: float
    groups: tuple[int, ...] | None = None


class TrainPlan:
    """Arranges the windows of a mixture into rows, and rows into optimizer steps.

    Args:
        stored: The tasks' documents, in the mixture's order.
        mixture: Which example is drawn when.
        kind: What a row measures.
        packing: How documents share rows.
        rows_per_step: Rows of one optimizer step, over all replicas.
        groups: Documents that are drawn and packed together; the mixture's examples are then groups.
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
        """The plan of one window; the last one asked for is kept."""
        if self._cached is None or self._cached[0] != index:
            self._cached = (index, self._plan(index))
        return self._cached[1]

    def lengths(self, plan: WindowPlan) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(tokens, source tokens) of every draw of a window."""
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
            targets = self.kind.target_counts(lengths, n_sources).astype(np.int64)
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
        """The rows of one optimizer step from a position on, and the position after them.

        A step may end one window and begin the next; no row is left over.
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
        """A row's documents, with the group of each where there are groups."""
        found = [self.stored.document(task, example) for task, example in row.documents]
        groups = row.groups or [None] * len(found)
        return [document._replace(group=group) for document, group in zip(found, groups, strict=True)]


def deal(costs: Sequence[float], parts: int) -> list[list[int]]:
    """Deal rows to `parts` batches of equal numbers of rows and nearly equal sums of costs.

    Rows are dealt by falling cost, each to the batch of the lowest cost that has room, so that no replica waits long
    for another. The result depends on the costs alone.

    >>> deal([9.0, 1.0, 8.0, 2.0], parts=2)
    [[0, 1], [2, 3]]
    """
    room, batches, sums = len(costs) // parts, [[] for _ in range(parts)], [0.0] * parts  # type: ignore[var-annotated]
    for row in sorted(range(len(costs)), key=lambda r: (-costs[r], r)):
        cheapest = min((p for p in range(parts) if len(batches[p]) < room), key=lambda p: (sums[p], p))
        batches[cheapest].append(row)
        sums[cheapest] += costs[row]
    return [sorted(batch) for batch in batches]


class TrainStream:
    """One replica's batches of `steps` optimizer steps: sized, stateful, and equal steps on any number of replicas.

    It is an iterable of its own rather than a DataLoader: rows are read from memory maps in the main process, so
    there is no worker whose state could be lost. Its state is the position after the last complete optimizer
    step, which has the same meaning on any number of replicas.
    """

    def __init__(self, plan: TrainPlan, replicas: Replicas, steps: int) -> None:
        replicas.rows_per_batch(plan.rows_per_step)
        self.plan, self.replicas, self.steps = plan, replicas, steps
        self.position = Position()

    def __len__(self) -> int:
        return self.steps * self.replicas.accumulation

    def __iter__(self) -> Iterator[RowBatch]:
        while True:
            rows, following = self.plan.step(self.position)
            batches = list(self._batches(rows))
            yield from batches[:-1]
            self.position = following  # before the last batch is handed out: a checkpoint follows its step
            yield batches[-1]

    def _batches(self, rows: list[Row]) -> Iterator[RowBatch]:
        step_targets = sum(row.targets for row in rows)
        batches = deal([row.cost for row in rows], self.replicas.size * self.replicas.accumulation)
        for mine in self.replicas.share(batches):
            documents = [self.plan.documents(rows[r]) for r in mine]
            yield self.plan.kind.collate(documents, step_targets)

    def state_dict(self) -> dict[str, Any]:
        return {"window": self.position.window, "row": self.position.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = Position(state["window"], state["row"])
