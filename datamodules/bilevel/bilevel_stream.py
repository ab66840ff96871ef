"""The training stream of instruction optimization: which instances of both levels each step has, and its batches.

A batch is a function of (seed, step), so that a position is one number with the same meaning on any number of
replicas::

    step        0      1      2      3      4      5         inner_steps K = 3
    inner      0 1    2 3    4 5    6 7    8 9   10 11       positions in shuffled epochs over inner instances
    outer                    0..7                 8..15      positions over outer instances, at every K-th step
    curvature                0..7                 8..15      positions over inner instances, in another order

"Curvature" is the inner batch of the hypergradient. Rows hold one example each, padded and not packed, because a
learnable instruction precedes every example.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..packing.replicas import Replicas
from ..storage.preparation import Preparation
from .bilevel_report import BilevelDescription, BilevelReport, LevelTasks, TaskInstances, fewer_demonstrations
from .exemplars import InstructionInputs
from .instance_rows import LanguageRows
from .level_instances import Instance, ShuffledEpochs, instances_of
from .level_rows import InnerBatch, LevelRows, TextSettings
from .truncated_instances import count_truncated


class BilevelBatch(NamedTuple):
    """Data of one training step: a batch for the model, and at every K-th step also batches for the instruction.

    Args:
        inner: Inner instances that theta is trained on.
        outer: Rows of outer tasks with human-written instructions; None if phi makes no step.
        curvature: Inner instances by which the hypergradient differentiates the inner loss; None if they are those of
            `inner`, or if phi makes no step.
    """

    inner: InnerBatch
    outer: LanguageRows | None = None
    curvature: InnerBatch | None = None


class BilevelPlan:
    """Decides which training instances each step of instruction optimization reads, and builds the step's batch.

    Inner instances train the model (theta), outer instances the instruction (phi). A batch depends on the seed and the
    number of the step alone, so that training resumes anywhere.

    Args:
        preparation: Settings of tokenization, with tokenizer and seed.
        inner: Inner tasks and their instances.
        outer: Outer tasks and their instances; empty if instructions are not learned.
        text: Settings of rendering and of the instructions' inputs.
        inner_steps: Inner steps per outer step, K.
        inner_rows: Instances of an inner step, over all replicas.
        outer_rows: Instances of an outer batch, and of a fresh inner batch of the hypergradient, over all replicas.
        fresh: Whether the hypergradient differentiates the inner loss on other instances than those of the inner step.
        skipped: Number of skipped training instances by reason, for the report.
    """

    def __init__(
        self,
        preparation: Preparation,
        inner: Sequence[TaskInstances],
        outer: Sequence[TaskInstances],
        text: TextSettings,
        *,
        inner_steps: int,
        inner_rows: int,
        outer_rows: int,
        fresh: bool,
        skipped: Mapping[str, int] | None = None,
    ) -> None:
        self.preparation, self.inner, self.outer, self.text = preparation, inner, outer, text
        self.inner_steps, self.inner_rows, self.outer_rows, self.fresh = inner_steps, inner_rows, outer_rows, fresh
        self.skipped = skipped or {}
        self.rows = LevelRows(preparation, inner, outer, text)
        pools = text.pools if text.shots is None else None
        self.repeated = 0 if pools is None else sum(pools.repeats(task.name, examples) for task, examples in inner)
        self._inner, self._outer = instances_of(inner), instances_of(outer)
        seed = preparation.seed
        self._inner_order = ShuffledEpochs(len(self._inner), seed=seed, name="inner")
        self._outer_order = ShuffledEpochs(len(self._outer), seed=seed, name="outer")
        self._curvature_order = ShuffledEpochs(len(self._inner), seed=seed, name="curvature")

    def epoch_steps(self, epochs: float = 1.0) -> int:
        """Return the number of inner steps of `epochs` epochs over the inner instances, rounded up."""
        return math.ceil(round(epochs * len(self._inner) / self.inner_rows, 6))

    def require_steps(self, steps: int) -> None:
        """Raise an error if training is too short for a single step of the instruction (phi).

        Raises:
            ValueError: There are outer tasks, and `steps` inner steps are fewer than `inner_steps`.
        """
        if self._outer and steps < self.inner_steps:
            raise ValueError(
                f"the length of training is counted in inner steps: set trainer.max_steps to at least inner_steps = "
                f"{self.inner_steps}, since phi makes one step in so many (an epoch has {self.epoch_steps()} steps), "
                f"got {steps}"
            )

    def stream(self, here: Replicas, steps: int) -> "BilevelStream":
        """Return the batches of one replica for `steps` inner steps; `here` is this process's replica."""
        return BilevelStream(self, here, steps)

    def report(self) -> BilevelReport:
        """Return the numbers of tasks and instances, and of the steps of one epoch over the inner instances."""
        steps, few_shot = self.epoch_steps(), self.rows.few_shot
        fewer = len(fewer_demonstrations(self.text.prompt, [task for task, _ in self.outer]))
        return BilevelReport(
            *self._levels(steps),
            self.skipped,
            steps,
            self.inner_steps,
            repeated_pools=self.repeated,
            fewer_demonstrations=fewer if few_shot is None else few_shot.fewer_outer,
            truncated=count_truncated(self.rows),
            fewer_exemplars=None if few_shot is None else few_shot.fewer_inner,
            unused={} if few_shot is None else few_shot.unused,
        )

    def describe(self, steps: int) -> BilevelDescription:
        """Return inner and outer tasks as a printable tree, with the draws of each task in `steps` inner steps."""
        return BilevelDescription(*self._levels(steps))

    def _levels(self, steps: int) -> tuple[LevelTasks, LevelTasks]:
        outer_draws = steps // self.inner_steps * self.outer_rows
        return LevelTasks(self.inner, steps * self.inner_rows), LevelTasks(self.outer, outer_draws)

    def contents(self) -> dict[str, dict[str, str]]:
        """Return a digest of each task's files, by which a resumed run notices that they changed.

        The digests are grouped: ``{"inner tasks": {task: digest}, "outer tasks": {task: digest}}``.
        """
        levels = {"inner tasks": self.inner, "outer tasks": self.outer}
        return {name: {task.name: self._digest(task.name) for task, _ in tasks} for name, tasks in levels.items()}

    def _digest(self, task: str) -> str:
        return hashlib.sha256(self.preparation.benchmark.fingerprint(task).encode()).hexdigest()[:12]

    def fingerprint(self) -> str:
        """Return a digest of the tasks' names and the first batch, by which processes check that their data agrees."""
        names = [task.name for task, _ in (*self.inner, *self.outer)]
        first = self.batch(0, Replicas()).inner.rows.input_ids
        return hashlib.sha256(repr((names, first.tolist())).encode()).hexdigest()[:12]

    def batch(self, step: int, here: Replicas) -> BilevelBatch:
        """Return the batch of one replica at an inner step, counted from 0."""
        inner = self._inner_batch(self._inner_order, step * self.inner_rows, self.inner_rows, here)
        if (step + 1) % self.inner_steps or not self._outer:
            return BilevelBatch(inner)
        first = step // self.inner_steps * self.outer_rows
        fresh = self._inner_batch(self._curvature_order, first, self.outer_rows, here) if self.fresh else None
        return BilevelBatch(inner, self._outer_batch(first, here), fresh)

    def examples(self, step: int) -> list[tuple[str, str]]:
        """Return (task, example id) of every instance in the batch of a step, over all replicas, e.g. for an error.

        The instances that train the model come first. At a step that also trains the instruction, those by which the
        hypergradient differentiates the inner loss follow if `fresh` is set, then those of outer tasks.

        Args:
            step: Number of the inner step, from 0.
        """
        positions = range(step * self.inner_rows, (step + 1) * self.inner_rows)
        drawn = [(self.inner, self._inner[self._inner_order.at(position)[0]]) for position in positions]
        if (step + 1) % self.inner_steps == 0 and self._outer:
            first = step // self.inner_steps * self.outer_rows
            rows = range(first, first + self.outer_rows)
            if self.fresh:
                drawn += [(self.inner, self._inner[self._curvature_order.at(row)[0]]) for row in rows]
            drawn += [(self.outer, self._outer[self._outer_order.at(row)[0]]) for row in rows]
        return [(level[task].task.name, level[task].examples[example].id) for level, (task, example) in drawn]

    def first_batch(self, task: int) -> InnerBatch:
        """Return the first training instance of inner task `task`, as a batch of one row."""
        rows, inputs = self.task_rows(self.inner, [Instance(task, 0)])
        assert inputs is not None
        return InnerBatch(rows, inputs)

    def first_drawn(self, tasks: Sequence[TaskInstances], number: int) -> list[Instance]:
        """Return the instances that training draws first, either from the inner or from the outer tasks.

        Args:
            tasks: The attribute ``inner`` (tasks that train the model) or ``outer`` (tasks that train the instruction).
            number: Maximum number of instances.
        """
        instances, order = (self._inner, self._inner_order) if tasks is self.inner else (self._outer, self._outer_order)
        return [instances[order.at(position)[0]] for position in range(min(number, len(instances)))]

    def task_rows(
        self, tasks: Sequence[TaskInstances], instances: Sequence[Instance]
    ) -> tuple[LanguageRows, InstructionInputs | None]:
        """Return chosen training instances as a batch, rendered as in the first epoch, e.g. to inspect them.

        Args:
            tasks: The attribute ``inner`` (tasks that train the model) or ``outer`` (tasks that train the instruction).
            instances: Instances of these tasks.

        Returns:
            Rows of one instance each, and the inputs of their learnable instructions, or None for outer tasks.
        """
        first_epoch = [(instance, 0) for instance in instances]
        if tasks is self.inner:
            return self.rows.inner_batch(first_epoch, Replicas())
        return self.rows.outer_batch(first_epoch, Replicas()), None

    def _outer_batch(self, first: int, here: Replicas) -> LanguageRows:
        drawn = [self._outer_order.at(first + row) for row in range(self.outer_rows)]
        return self.rows.outer_batch([(self._outer[item], epoch) for item, epoch in drawn], here)

    def _inner_batch(self, order: ShuffledEpochs, first: int, rows: int, here: Replicas) -> InnerBatch:
        drawn = [order.at(first + row) for row in range(rows)]
        return self.rows.inner_batch([(self._inner[item], epoch) for item, epoch in drawn], here)


class BilevelStream:
    """Iterates over the training batches of one data-parallel replica, and resumes at the step of its saved state.

    The iterator is endless; ``len`` is `steps`, by which Lightning sizes the epoch.

    Args:
        plan: Builds the batch of any step.
        here: This process's replica, and the number of replicas.
        steps: Inner steps of the training.

    Raises:
        ValueError: The instances of a batch are not a multiple of the number of replicas.
    """

    def __init__(self, plan: BilevelPlan, here: Replicas, steps: int) -> None:
        for name, rows in (("inner_rows", plan.inner_rows), ("outer_rows", plan.outer_rows)):
            if rows % here.size:
                raise ValueError(
                    f"{name} = {rows} cannot be divided among {here.size} replicas: choose a multiple of {here.size}"
                )
        self.plan, self.here, self.steps, self.step = plan, here, steps, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[BilevelBatch]:
        while True:
            batch = self.plan.batch(self.step, self.here)
            self.step += 1  # before the yield: a checkpoint is written after the batch's step
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the number of inner steps whose batch was yielded."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
