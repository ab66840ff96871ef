"""What a comparison of both sides found, for a person to judge, and the judgement, for splits to obey.

The report is Markdown, to be read; the decisions are a table of tab-separated values, to be edited::

    decision   training task    evaluation task   hit  examples  share
    undecided  gsm8k            strategyqa         12       229  0.0524

``keep`` leaves both tasks where they are (broad context is shared, an article of Wikipedia say), ``drop_train`` takes
the training task out of training and ``drop_evaluation`` the evaluation task out of evaluation.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..benchmarks.decisions import COLUMNS, DECISIONS, decision_rows
from .overlap import EvaluationIndex, TaskOverlap

THRESHOLD = 0.01
"""Share of an evaluation task's examples above which a pair is judged (OPT-IML, appendix A.1)."""


class Overlap(NamedTuple):
    """A training task and an evaluation task that share text.

    Args:
        train: The training task.
        evaluation: The evaluation task.
        hit: Evaluation examples with a common n-gram.
        examples: Evaluation examples in all.
        witnesses: (id of a training example, id of an evaluation example, their common words).
    """

    train: str
    evaluation: str
    hit: int
    examples: int
    witnesses: tuple[tuple[str, str, str], ...]

    @property
    def share(self) -> float:
        return self.hit / self.examples


@dataclass(frozen=True)
class Comparison:
    """All pairs above a threshold, the largest share first, and what the comparison read."""

    pairs: tuple[Overlap, ...]
    threshold: float
    n: int
    train_tasks: int
    train_examples: int
    evaluation_tasks: int
    evaluation_examples: int
    short: int
    touched: int


def compare(index: EvaluationIndex, found: Iterable[TaskOverlap], threshold: float = THRESHOLD) -> Comparison:
    """Pairs of tasks whose share of hit evaluation examples is above the threshold; a task is not its own pair."""
    sizes = np.bincount(index.task_of, minlength=len(index.tasks))
    pairs: list[Overlap] = []
    touched = np.zeros(len(index.ids), dtype=bool)
    tasks = examples = 0
    for overlap in found:
        tasks, examples = tasks + 1, examples + overlap.examples
        touched[overlap.hits] = True
        hits = np.bincount(index.task_of[overlap.hits], minlength=len(index.tasks))
        for number in np.flatnonzero(hits > threshold * sizes):
            if index.tasks[number] != overlap.task:
                pairs.append(_pair(index, overlap, int(number), int(hits[number]), int(sizes[number])))
    pairs.sort(key=lambda pair: (-pair.share, pair.train, pair.evaluation))
    return Comparison(
        tuple(pairs),
        threshold,
        index.n,
        tasks,
        examples,
        len(index.tasks),
        len(index.ids),
        int(index.short.sum()),
        int(touched.sum()),
    )


def _pair(index: EvaluationIndex, overlap: TaskOverlap, number: int, hit: int, examples: int) -> Overlap:
    shown = tuple(
        (witness.train_id, index.ids[witness.evaluation], " ".join(witness.words.split()))
        for witness in overlap.witnesses
        if index.task_of[witness.evaluation] == number
    )
    return Overlap(overlap.task, index.tasks[number], hit, examples, shown)


def summary(found: Comparison) -> str:
    """What was compared, and what came out, in a few sentences."""
    return (
        f"{found.evaluation_examples:,} examples of {found.evaluation_tasks:,} evaluation tasks against "
        f"{found.train_examples:,} examples of {found.train_tasks:,} training tasks: {found.touched:,} evaluation "
        f"examples share a run of {found.n} words with training. {found.short:,} are shorter than {found.n} words, and "
        f"cannot be judged this way. {len(found.pairs):,} pairs of tasks lie above {found.threshold:.1%}."
    )


def markdown(found: Comparison) -> str:
    """The report as a page."""
    lines = [f"# Shared {found.n}-grams of training and evaluation tasks", "", summary(found), ""]
    for pair in found.pairs:
        lines += [f"## {pair.train} -> {pair.evaluation}: {pair.hit} of {pair.examples} ({pair.share:.1%})", ""]
        lines += [f"- `{train}` and `{evaluation}`: {words}" for train, evaluation, words in pair.witnesses]
        lines.append("")
    return "\n".join(lines)


def write_decisions(path: Path, pairs: Sequence[Overlap]) -> None:
    """A row for each pair; a pair that was judged in the file before keeps its decision."""
    judged = {(row[1], row[2]): row[0] for row in decision_rows(path)} if path.exists() else {}
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        for pair in pairs:
            decision = judged.get((pair.train, pair.evaluation), DECISIONS[0])
            table.writerow([decision, pair.train, pair.evaluation, pair.hit, pair.examples, f"{pair.share:.4f}"])
