"""Training plan of a mixture of stored tasks: rates, draws and packed rows, and the reports about them."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from ..mixture.draws import WINDOW, Mixture
from ..mixture.mixture_report import MixtureReport, mixture_report
from ..mixture.proportions import MixtureRules, TaskSize, task_rates
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
    """Plan of a training on stored tasks: sampling rates from sizes, draws of documents, and their packed rows.

    Args:
        stored: Tokenized examples (documents) of the tasks.
        tasks: The tasks, in the same order.
        kind: Builds the rows of a batch, for a decoder-only model, an encoder-decoder or a scorer.
        rules: Rules that compute sampling rates from sizes.
        packing: Function that packs documents into rows.
        rows_per_step: Rows of one optimizer step, over all replicas.
        seed: Seed of the draws and the packing.
        groups: Groups of documents to draw in place of single documents; None for single documents.
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
        """Return the number of optimizer steps of `epochs` epochs, rounded up once over all of them; at least 1.

        An epoch has as many draws as the tasks have examples, where a task counts with at most ``MixtureRules.cap``.
        """
        return max(1, math.ceil(round(epochs * self.report().rows / self.rows_per_step, 6)))

    def require_steps(self, steps: int) -> None:
        """Check that the number of optimizer steps of a training is set.

        Raises:
            ValueError: `steps` is below 1. The message has the number of steps of an epoch.
        """
        if steps < 1:
            raise ValueError(
                "the length of training is counted in optimizer steps: set trainer.max_steps "
                f"(an epoch of this mixture has {self.epoch_steps()}), or the datamodule's epochs"
            )

    def stream(self, here: Replicas, steps: int) -> TrainStream:
        """Return the batches of one replica for `steps` optimizer steps; `here` is this process's replica."""
        return TrainStream(self, here, steps)

    def report(self) -> PackingReport:
        """Return the packing report of one epoch."""
        return packing_report(self, self.epoch)

    def describe(self, steps: int) -> MixtureReport:
        """Return the expected draws of each task in `steps` optimizer steps, as a tree of benchmarks and categories."""
        rates = np.asarray(self.mixture.rates)
        rows_per_draw = float(np.dot(rates, [size.rows for size in self.sizes]))
        return mixture_report(self.sizes, rates, steps * self.rows_per_step * self._fill() / rows_per_draw, self.rules)

    def _fill(self) -> float:
        """Return the share of the capacity of rows that documents fill, in the first window."""
        window = self.window(0)
        return float(self.kind.sizes(*self.lengths(window)).sum()) / self.kind.capacity / len(window.rows)

    def contents(self) -> dict[str, dict[str, str]]:
        """Return a digest of each task's stored documents, as {"training tasks": {task: digest}}.

        A checkpoint stores it, so that a resumed run notices changed data. The digest is part of the folder's name.
        """
        keys = (folder.name.rpartition("-")[2][:12] for folder in self.stored.folders)
        return {"training tasks": dict(zip(self.mixture.names, keys, strict=True))}

    def fingerprint(self) -> str:
        """Return a digest of the first draws and rows of the training; it is the same on every process of a run."""
        window = self.window(0)
        arrays = (window.tasks, window.examples, window.row_targets)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:12]


def _task_size(task: Task, stored: StoredTask, draws: int, kind: RowKind) -> TaskSize:
    """Return the size of a task, averaged over `draws` draws that contain each of its documents once."""
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
