"""A mixture as a tree: the expected draws of each task, with warnings for tasks drawn hardly ever or too often."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..messages import some
from .rates import MixtureRules, TaskSize, absent_benchmarks

COLUMNS = ("examples", "rate", "draws", "epochs", "tokens")

MANY_EPOCHS = 20
"""Times each example of a task is drawn on average, beyond which the task is warned of."""


class MixtureLine(NamedTuple):
    """One node of the tree: the whole, a benchmark, a category of it, or a task.

    Args:
        name: Its name.
        depth: 0 for the whole mixture, 1 for a benchmark, 2 for a category, 3 for a task.
        examples: Training examples below it.
        rate: Its share of the examples drawn.
        draws: Examples expected to be drawn.
        epochs: Expected number of draws of each of its examples.
        tokens: Tokens expected to be drawn.
    """

    name: str
    depth: int
    examples: int
    rate: float
    draws: float
    epochs: float
    tokens: float

    def cells(self) -> tuple[str, ...]:
        return (
            f"{self.examples:,}",
            f"{self.rate:.3%}",
            f"{self.draws:,.1f}" if self.draws < 100 else f"{self.draws:,.0f}",
            f"{self.epochs:.3g}",
            f"{self.tokens:,.0f}",
        )


@dataclass(frozen=True)
class MixtureReport:
    """The tree in reading order, the licences of each benchmark as "licence (tasks)", and warnings."""

    nodes: list[MixtureLine]
    warnings: list[str]
    licences: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, depth: int = 3) -> list[str]:
        """Text in columns, down to a depth: 1 for benchmarks, 2 for categories, 3 for tasks."""
        shown = [node for node in self.nodes if node.depth <= depth]
        names = ["  " * node.depth + node.name for node in shown]
        rows = [("mixture", *COLUMNS), *((name, *node.cells()) for name, node in zip(names, shown, strict=True))]
        licences = [f"licences of {benchmark}: {', '.join(names)}" for benchmark, names in self.licences.items()]
        return [*in_columns(rows), *licences, *(f"warning: {warning}" for warning in self.warnings)]


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines of text, the first column to the left and the others to the right.

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
    """Describe a mixture of which `draws` examples are to be trained; `rules` are those its rates came from."""

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
    warnings = without + _warnings([line for line in nodes if line.depth == 3], draws)
    return MixtureReport(nodes, warnings, _licences(tasks))


def _licences(tasks: Sequence[TaskSize]) -> dict[str, list[str]]:
    """The licences of each benchmark whose tasks state any."""
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


def _warnings(lines: Sequence[MixtureLine], draws: float) -> list[str]:
    warnings = []
    if never := [line.name for line in lines if line.draws < 0.5]:
        warnings.append(
            f"{len(never)} of {len(lines)} tasks are drawn less than half a time in {draws:,.0f} draws, that is, "
            f"hardly ever: {some(never)}; train longer, lower the cap, or leave them out"
        )
    if often := sorted((line for line in lines if line.epochs > MANY_EPOCHS), key=lambda line: -line.epochs):
        named = [f"{line.name} ({line.epochs:,.0f} times over {line.examples:,} examples)" for line in often]
        warnings.append(
            f"{len(often)} of {len(lines)} tasks are drawn more than {MANY_EPOCHS} times over: {some(named)}; give "
            "their benchmark a smaller share (mixture.proportions, mixture.extra), raise mixture.cap, or train fewer "
            "steps"
        )
    return warnings
