"""Report of a mixture as a tree: expected draws of benchmarks, categories and tasks, and warnings.

Tasks that are hardly ever drawn, or whose examples are repeated too often, are warned of.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..messages import counted, some
from .proportions import MixtureRules, TaskSize, absent_benchmarks

COLUMNS = ("examples", "rate", "draws", "epochs", "tokens")

MANY_EPOCHS = 20
"""Average number of draws of a task's examples above which a warning names the task."""


class MixtureLine(NamedTuple):
    """Expected draws of the whole mixture, of a benchmark, of a category or of a task: one line of the printed tree.

    Args:
        name: Name of the benchmark, category or task; ``all`` for the whole mixture.
        depth: 0 for the whole mixture, 1 for a benchmark, 2 for a category, 3 for a task.
        examples: Number of its training examples.
        rate: Its share of the draws, in [0, 1].
        draws: Expected number of draws in the described training.
        epochs: `draws` divided by `examples`.
        tokens: Expected number of tokens of the draws.
    """

    name: str
    depth: int
    examples: int
    rate: float
    draws: float
    epochs: float
    tokens: float

    def cells(self) -> tuple[str, ...]:
        """Return the numbers as text, one for each of ``COLUMNS``."""
        return (
            f"{self.examples:,}",
            f"{self.rate:.3%}",
            f"{self.draws:,.1f}" if self.draws < 100 else f"{self.draws:,.0f}",
            f"{self.epochs:.3g}",
            f"{self.tokens:,.0f}",
        )


@dataclass(frozen=True)
class MixtureReport:
    """Expected draws of a training as a tree of benchmarks, categories and tasks, which `crosstask describe` prints.

    Args:
        nodes: Nodes of the tree, each before its children.
        warnings: Sentences about tasks that are hardly ever drawn or too often repeated, and about missing benchmarks.
        licences: For each benchmark whose tasks state any, its licences as "licence (number of tasks)".
    """

    nodes: list[MixtureLine]
    warnings: list[str]
    licences: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, depth: int = 3) -> list[str]:
        """Return the tree as lines of text in columns, then licences and warnings.

        Args:
            depth: Deepest nodes: 1 for benchmarks, 2 for categories, 3 for tasks.
        """
        shown = [node for node in self.nodes if node.depth <= depth]
        names = ["  " * node.depth + node.name for node in shown]
        rows = [("mixture", *COLUMNS), *((name, *node.cells()) for name, node in zip(names, shown, strict=True))]
        licences = [f"licences of {benchmark}: {', '.join(names)}" for benchmark, names in self.licences.items()]
        return [*in_columns(rows), *licences, *(f"warning: {warning}" for warning in self.warnings)]


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines of text; the first column is left-aligned, the others right-aligned.

    >>> in_columns([("task", "rate"), ("a", "100%")])
    ['task  rate', 'a     100%']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def mixture_report(
    tasks: Sequence[TaskSize],
    rates: NDArray[np.float64],
    draws: float,
    rules: MixtureRules = MixtureRules(),  # noqa: B008
) -> MixtureReport:
    """Return the expected draws of a training as a tree of benchmarks, categories and tasks, with warnings.

    Args:
        tasks: The tasks and their sizes.
        rates: float64 [tasks], sampling rate of each task.
        draws: Number of draws in the described training.
        rules: The rules that the rates were computed by; benchmarks that they name and that have no tasks are warned
            of.
    """

    def node(name: str, depth: int, members: Sequence[int]) -> MixtureLine:
        rate = float(sum(rates[i] for i in members))
        examples = sum(tasks[i].examples for i in members)
        tokens = draws * float(sum(rates[i] * tasks[i].tokens for i in members))
        return MixtureLine(name, depth, examples, rate, rate * draws, rate * draws / max(examples, 1), tokens)

    nodes = [node("all", 0, range(len(tasks)))]
    for benchmark, in_benchmark in _grouped(range(len(tasks)), lambda i: tasks[i].benchmark).items():
        nodes.append(node(benchmark, 1, in_benchmark))
        for category, in_category in _grouped(in_benchmark, lambda i: tasks[i].category).items():
            nodes.append(node(category, 2, in_category))
            nodes += [node(tasks[i].name, 3, [i]) for i in in_category]
    absent = absent_benchmarks(rules, {task.benchmark for task in tasks})
    without = [f"no training task is of {', '.join(absent)}: the others share what the rules give it"] if absent else []
    warnings = without + _warnings(tasks, [line for line in nodes if line.depth == 3], draws)
    return MixtureReport(nodes, warnings, _licences(tasks))


def _licences(tasks: Sequence[TaskSize]) -> dict[str, list[str]]:
    """Return the licences of each benchmark whose tasks state any, as "licence (number of tasks)"."""
    counts: dict[str, Counter[str]] = {}
    for task in tasks:
        counts.setdefault(task.benchmark, Counter())[task.licence or "not stated"] += 1
    return {
        benchmark: [f"{licence} ({number})" for licence, number in of.most_common()]
        for benchmark, of in counts.items()
        if set(of) != {"not stated"}
    }


def _grouped(members: Sequence[int], key: Callable[[int], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return groups


def _warnings(tasks: Sequence[TaskSize], lines: Sequence[MixtureLine], draws: float) -> list[str]:
    warnings = []
    if never := [line.name for line in lines if line.draws < 0.5]:
        warnings.append(
            f"{len(never)} of {len(lines)} tasks are drawn less than half a time in {draws:,.0f} draws, that is, "
            f"hardly ever: {some(never)}; train longer, lower the cap, or leave them out"
        )
    if often := sorted((line for line in lines if line.epochs > MANY_EPOCHS), key=lambda line: -line.epochs):
        named = [f"{line.name} ({line.epochs:,.0f} times over {counted(line.examples, 'example')})" for line in often]
        warnings.append(
            f"{len(often)} of {len(lines)} tasks are drawn more than {MANY_EPOCHS} times over: {some(named)}; "
            f"{_ways_to_fewer_draws(tasks)}"
        )
    return warnings


def _ways_to_fewer_draws(tasks: Sequence[TaskSize]) -> str:
    """Return what a user can change so that tasks are drawn less often: a share or a cap needs others that gain."""
    share = "give their benchmark a smaller share (mixture.proportions, mixture.extra)"
    shares = [share] if len({task.benchmark for task in tasks}) > 1 else []
    caps = ["raise mixture.cap"] if len({task.examples for task in tasks}) > 1 else []
    return ", ".join([*shares, *caps, "or train fewer steps"]).removeprefix("or ")
