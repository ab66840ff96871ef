"""Report of text that tasks share, and the table in which a person decides about each pair of tasks.

The report is Markdown. The decisions are a table of tab-separated values, to be edited::

    decision   training task    evaluation task   hit  examples  share
    undecided  gsm8k            strategyqa         12       229  0.0524

``hit`` is the number of evaluation examples that share text with the training task, out of ``examples``. The decision
``keep`` keeps both tasks (for shared context such as an article of Wikipedia), ``drop_train`` drops the training task,
and ``drop_evaluation`` the evaluation task.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..atomic_files import whole_file
from ..benchmarks.levels.dataset_identities import shipped_identities
from ..benchmarks.levels.overlap_decisions import COLUMNS, DECISIONS, decision_rows
from ..messages import counted
from ..visible_text import escape_markdown, markdown_code
from .overlap import EvaluationIndex, TaskOverlap

THRESHOLD = 0.01
"""Share of an evaluation task's examples above which a pair is reported (OPT-IML, appendix A.1)."""


class ContaminatedPair(NamedTuple):
    """A training task and an evaluation task that share text: n-grams of n consecutive words.

    Args:
        train: Name of the training task.
        evaluation: Name of the evaluation task.
        hit: Number of evaluation examples that share an n-gram with the training task.
        examples: Number of all evaluation examples of the task.
        evidence: (training example id, evaluation example id, shared words) of a few overlaps.
    """

    train: str
    evaluation: str
    hit: int
    examples: int
    evidence: tuple[tuple[str, str, str], ...]

    @property
    def share(self) -> float:
        """Share of the evaluation examples that share an n-gram with the training task, in [0, 1]."""
        return self.hit / self.examples


@dataclass(frozen=True)
class ContaminationReport:
    """Numbers of evaluation examples that share text with training, and the pairs of tasks that share much.

    Args:
        pairs: Pairs of tasks above the threshold, the largest share first.
        threshold: Share of a task's evaluation examples above which a pair is reported, in [0, 1].
        n: Number of words of an n-gram.
        train_tasks: Number of training tasks.
        train_examples: Number of training examples.
        evaluation_tasks: Number of evaluation tasks.
        evaluation_examples: Number of evaluation examples.
        short: Number of evaluation examples of fewer than `n` words, which cannot be compared.
        contaminated: Number of evaluation examples that share an n-gram with any training task.
    """

    pairs: tuple[ContaminatedPair, ...]
    threshold: float
    n: int
    train_tasks: int
    train_examples: int
    evaluation_tasks: int
    evaluation_examples: int
    short: int
    contaminated: int


def compare(
    index: EvaluationIndex, overlaps: Iterable[TaskOverlap], threshold: float = THRESHOLD
) -> ContaminationReport:
    """Report which evaluation tasks share text with which training tasks, in more than a threshold of their examples.

    A task that is both trained and evaluated is not compared with itself.

    Args:
        index: N-grams of the evaluation examples.
        overlaps: For each training task, the evaluation examples that share an n-gram with it.
        threshold: Share of an evaluation task's examples, in [0, 1].
    """
    sizes = np.bincount(index.task_of, minlength=len(index.tasks))
    pairs: list[ContaminatedPair] = []
    contaminated = np.zeros(len(index.ids), dtype=bool)
    tasks = examples = 0
    for overlap in overlaps:
        tasks, examples = tasks + 1, examples + overlap.examples
        contaminated[overlap.hits] = True
        hits = np.bincount(index.task_of[overlap.hits], minlength=len(index.tasks))
        for number in np.flatnonzero(hits > threshold * sizes):
            if index.tasks[number] != overlap.task:
                pairs.append(_pair(index, overlap, int(number), int(hits[number]), int(sizes[number])))
    pairs.sort(key=lambda pair: (-pair.share, pair.train, pair.evaluation))
    return ContaminationReport(
        tuple(pairs),
        threshold,
        index.n,
        tasks,
        examples,
        len(index.tasks),
        len(index.ids),
        int(index.short.sum()),
        int(contaminated.sum()),
    )


def _pair(index: EvaluationIndex, overlap: TaskOverlap, number: int, hit: int, examples: int) -> ContaminatedPair:
    evidence = tuple(
        (shared.train_id, index.ids[shared.evaluation], " ".join(shared.words.split()))
        for shared in overlap.evidence
        if index.task_of[shared.evaluation] == number
    )
    return ContaminatedPair(overlap.task, index.tasks[number], hit, examples, evidence)


def summary(report: ContaminationReport) -> str:
    """Return the report's numbers in a few sentences."""
    return (
        f"{counted(report.evaluation_examples, 'example')} of {counted(report.evaluation_tasks, 'evaluation task')} "
        f"against {counted(report.train_examples, 'example')} of {counted(report.train_tasks, 'training task')}: "
        f"{counted(report.contaminated, 'evaluation example shares', 'evaluation examples share')} a run of "
        f"{report.n} words with training. {counted(report.short, 'is', 'are')} shorter than {report.n} words and "
        f"cannot be compared. {counted(len(report.pairs), 'pair of tasks is', 'pairs of tasks are')} above "
        f"{report.threshold:.1%}."
    )


def markdown(report: ContaminationReport) -> str:
    """Return the report as Markdown: a summary, then a section for each pair of tasks with some of the shared text."""
    lines = [f"# Shared {report.n}-grams of training and evaluation tasks", "", summary(report), ""]
    for pair in report.pairs:
        names = f"{escape_markdown(pair.train)} -> {escape_markdown(pair.evaluation)}"
        lines += [f"## {names}: {pair.hit} of {pair.examples} ({pair.share:.1%})", ""]
        if dataset := _common_dataset(pair):
            lines += [f"Both are made from {escape_markdown(dataset)}.", ""]
        lines += [
            f"- {markdown_code(train)} and {markdown_code(evaluation)}: {escape_markdown(words)}"
            for train, evaluation, words in pair.evidence
        ]
        lines.append("")
    return "\n".join(lines)


def _common_dataset(pair: ContaminatedPair) -> str | None:
    """Return the published dataset that both tasks' names mention; None if there is none."""
    dataset = shipped_identities().identity(pair.train)
    return dataset if dataset == shipped_identities().identity(pair.evaluation) else None


def write_decisions(path: Path, pairs: Sequence[ContaminatedPair]) -> None:
    """Write a TSV table in which a person decides whether to drop a task of each pair that shares text.

    Decisions in an existing file are kept, also about pairs that are not among `pairs` any more.

    Args:
        path: The table.
        pairs: Pairs of a training task and an evaluation task; new ones are undecided.
    """
    decided = {(row[1], row[2]): row for row in decision_rows(path)} if path.exists() else {}
    with whole_file(path) as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        for pair in pairs:
            decision = decided.pop((pair.train, pair.evaluation), DECISIONS)[0]
            table.writerow([decision, pair.train, pair.evaluation, pair.hit, pair.examples, f"{pair.share:.4f}"])
        table.writerows(row for row in decided.values() if row[0] != DECISIONS[0])
