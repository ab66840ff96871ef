"""Report of instruction optimization's training data: tasks, instances and draws of the inner and outer level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from ..mixture.mixture_report import in_columns
from ..rendering.prompts import PromptForm, TkInstructPrompt
from ..schema import Example, Task

COLUMNS = ("tasks", "instances", "draws", "epochs")


class TaskInstances(NamedTuple):
    """A task and its training instances, in the order of its files."""

    task: Task
    examples: list[Example]


class LevelTasks(NamedTuple):
    """Either the inner tasks, which train the model (theta), or the outer tasks, which train the instruction (phi).

    Training draws all their instances equally often.

    Args:
        tasks: The tasks and their training instances.
        draws: Number of instances that training draws from all these tasks together, repetitions included.
    """

    tasks: Sequence[TaskInstances]
    draws: int

    @property
    def instances(self) -> int:
        """Number of training instances of the level."""
        return sum(len(task.examples) for task in self.tasks)


def fewer_demonstrations(form: PromptForm, tasks: Sequence[Task]) -> list[str]:
    """Return the names of the tasks that have too few demonstrations for a prompt, which then has fewer.

    Args:
        form: Prompt form. Only ``TkInstructPrompt`` has numbers of positive and negative demonstrations; for any other
            form, no task is returned.
        tasks: The tasks, with the demonstrations that their authors wrote.
    """
    if not isinstance(form, TkInstructPrompt):
        return []
    return [
        task.name
        for task in tasks
        if len(task.positive_examples) < form.positive_examples or len(task.negative_examples) < form.negative_examples
    ]


@dataclass(frozen=True)
class BilevelReport:
    """Counts that are printed before instruction optimization: tasks, instances, and the steps of one epoch.

    An epoch passes once over the inner instances, which train the model; outer instances train the instruction.

    Args:
        inner: Tasks that train the model, theta.
        outer: Tasks that train the instruction, phi; empty if instructions are not learned.
        skipped: Number of training instances that are skipped, by reason.
        steps: Number of inner steps.
        inner_steps: Inner steps per outer step.
        repeated_pools: Number of inner tasks with fewer instances than exemplars, so that some exemplars are repeated.
        fewer_demonstrations: Number of outer tasks with fewer demonstrations than the prompt has room for.
        truncated: Number of instances and exemplars that are too long, by what they are cut to.
        fewer_exemplars: Number of inner tasks with fewer exemplars than demonstrations in a prompt; None if exemplars
            are not chosen as demonstrations.
        unused: Number of inner instances that cannot serve as exemplars, by reason, if exemplars are chosen as
            demonstrations.
    """

    inner: LevelTasks
    outer: LevelTasks
    skipped: Mapping[str, int]
    steps: int
    inner_steps: int
    repeated_pools: int = 0
    fewer_demonstrations: int = 0
    truncated: Mapping[str, int] = field(default_factory=dict)
    fewer_exemplars: int | None = None
    unused: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[tuple[str, str]]:
        """Return the report as a table of two columns: (quantity, value) of each line."""
        chosen = []
        if self.fewer_exemplars is not None:
            chosen = [
                ("inner tasks with fewer exemplars than demonstrations", f"{self.fewer_exemplars:,}"),
                ("inner instances that are no exemplars", _by_reason(self.unused)),
            ]
        return [
            ("inner tasks", f"{len(self.inner.tasks):,}"),
            ("inner instances", f"{self.inner.instances:,}"),
            ("outer tasks", f"{len(self.outer.tasks):,}"),
            ("outer instances", f"{self.outer.instances:,}"),
            ("inner tasks that repeat exemplars", f"{self.repeated_pools:,}"),
            ("outer tasks with fewer demonstrations", f"{self.fewer_demonstrations:,}"),
            *((kind, f"{count:,}") for kind, count in self.truncated.items()),
            *chosen,
            ("training instances skipped", _by_reason(self.skipped)),
            ("inner steps in an epoch", f"{self.steps:,}"),
            ("phi steps in an epoch", f"{self.steps // self.inner_steps if self.outer.tasks else 0:,}"),
        ]


def _by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items())) or "none"


@dataclass(frozen=True)
class BilevelDescription:
    """Tree of the inner tasks (which train the model) and the outer tasks (which train the instruction), to print.

    Every level, category and task has its numbers of instances, draws and epochs in training.
    """

    inner: LevelTasks
    outer: LevelTasks

    def lines(self, depth: int = 3) -> list[str]:
        """Return the tree as lines of text in columns.

        Args:
            depth: Deepest nodes: 1 for levels, 2 for categories, 3 for tasks.
        """
        rows = [("level", *COLUMNS)]
        for name, level in (("inner", self.inner), ("outer", self.outer)):
            rows.append(_row(name, level.tasks, level))
            members = sorted(level.tasks, key=lambda member: member.task.category)
            for category, in_category in groupby(members, key=lambda member: member.task.category):
                tasks = list(in_category)
                rows += [_row(f"  {category}", tasks, level)] * (depth > 1)
                rows += [_row(f"    {task.task.name}", [task], level) for task in tasks if depth > 2]
        return in_columns(rows)


def _row(name: str, tasks: Sequence[TaskInstances], level: LevelTasks) -> tuple[str, str, str, str, str]:
    instances = sum(len(task.examples) for task in tasks)
    epochs = level.draws / max(level.instances, 1)
    return name, f"{len(tasks):,}", f"{instances:,}", f"{instances * epochs:,.0f}", f"{epochs:.3g}"
