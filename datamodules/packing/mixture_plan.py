"""The plan of a training from the store: a mixture's draws in packed rows, with its reports."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from ..mixture.draws import WINDOW, Mixture
from ..mixture.mixture_report import MixtureReport, mixture_report
from ..mixture.rates import MixtureRules, TaskSize, task_rates
from ..schema import Task
from ..storage.store import StoredTask
from ..storage.stored_tasks import StoredTasks
from .best_fit import Packing
from .collate import RowKind
from .document_groups import Groups
from .packing_report import PackingReport, packing_report
from .replicas import Replicas
from .train_stream import TrainPlan, TrainStream


class MixturePlan(TrainPlan):
    """A ``TrainPlan`` whose mixture follows from rules and the sizes of the tasks.

    Args:
        stored: The documents of the tasks.
        tasks: The tasks, in the same order.
        kind: The kind of row, with its capacity.
        rules: How sizes become rates.
        packing: How documents share rows.
        rows_per_step: Rows of one optimizer step, over all replicas.
        seed: Decides the order of the draws and the packing.
        groups: Groups of documents that are drawn in place of single documents.
    """

    def __init__(
        self,
        stored: StoredTasks,
        tasks: Sequence[Task],
        kind: RowKind,
        rules: MixtureRules,
        *,
        packing: Packing,
        rows_per_step: int,
        seed: int,
        groups: Groups | None = None,
    ) -> None:
        counts = stored.sizes if groups is None else groups.counts()
        self.rules = rules
        self.sizes = [_task_size(*of, kind) for of in zip(tasks, stored, counts, strict=True)]
        self.epoch = sum(min(size.examples, rules.cap or size.examples) for size in self.sizes)
        window = self.epoch / math.ceil(self.epoch / WINDOW)  # an epoch is a whole number of windows, at least one
        rates = task_rates(self.sizes, rules)
        mixture = Mixture([task.name for task in tasks], counts, rates.tolist(), seed, window)
        super().__init__(stored, mixture, kind, packing, rows_per_step, groups)

    def epoch_steps(self, epochs: float = 1.0) -> int:
        """Optimizer steps of so many epochs, whose rows follow each other: only the last step may go beyond them."""
        return max(1, math.ceil(round(epochs * self.report().rows / self.rows_per_step, 6)))

    def require_steps(self, steps: int) -> None:
        """Reject a training without a length.

        Raises:
            ValueError: `steps` is below 1; names the steps of an epoch.
        """
        if steps < 1:
            raise ValueError(
                "the length of training is counted in optimizer steps: set trainer.max_steps "
                f"(an epoch of this mixture has {self.epoch_steps()}), or the datamodule's epochs"
            )

    def stream(self, here: Replicas, steps: int) -> TrainStream:
        """One replica's batches of `steps` optimizer steps."""
        return TrainStream(self, here, steps)

    def report(self) -> PackingReport:
        """One epoch in numbers."""
        return packing_report(self, self.epoch)

    def describe(self, steps: int) -> MixtureReport:
        """The mixture as a tree, with the expected draws of each task in `steps` optimizer steps."""
        rates = np.asarray(self.mixture.rates)
        rows_per_draw = float(np.dot(rates, [size.rows for size in self.sizes]))
        return mixture_report(self.sizes, rates, steps * self.rows_per_step / rows_per_draw, self.rules)

    def contents(self) -> dict[str, dict[str, str]]:
        """Digest of each task's documents, from the name of its folder in the store."""
        keys = (folder.name.rpartition("-")[2][:12] for folder in self.stored.folders)
        return {"training tasks": dict(zip(self.mixture.names, keys, strict=True))}

    def fingerprint(self) -> str:
        """Digest of the first window; the same on every process of a run."""
        window = self.window(0)
        arrays = (window.tasks, window.examples, window.row_targets)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:12]


def _task_size(task: Task, stored: StoredTask, draws: int, kind: RowKind) -> TaskSize:
    """Average size of one draw of a task, if all its documents are `draws` draws."""
    lengths = stored.lengths, stored.n_sources
    return TaskSize(
        name=task.name,
        benchmark=task.benchmark,
        category=task.category,
        licence=task.licence,
        examples=draws,
        tokens=float(kind.real_tokens(*lengths).sum()) / max(draws, 1),
        rows=float(kind.sizes(*lengths).sum()) / max(draws, 1) / kind.capacity,
    )
