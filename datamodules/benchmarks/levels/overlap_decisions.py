"""Reader of the decisions about pairs of tasks that share text, a TSV file that a person edits.

``crosstask decontaminate`` writes the file with every pair undecided; a ``Bench`` drops the tasks that it names.
"""

import csv
from pathlib import Path
from typing import NamedTuple

from ...data_files import text_lines

DECISIONS = ("undecided", "keep", "drop_train", "drop_evaluation")
"""Values of the first column: no decision yet, keep both tasks, do not train one, do not evaluate the other."""

COLUMNS = ("decision", "training task", "evaluation task", "hit", "examples", "share")
"""Header of the file."""


class Decisions(NamedTuple):
    """Tasks that a person decided not to train, or not to evaluate, because they share text with each other.

    Args:
        drop_train: Names of tasks that must not train.
        drop_evaluation: Names of tasks that must not be evaluated.
        undecided: Number of pairs without a decision; both of their tasks are kept.
    """

    drop_train: frozenset[str]
    drop_evaluation: frozenset[str]
    undecided: int


def read_decisions(path: Path) -> Decisions:
    """Read a table of decisions and return the tasks that it drops.

    Raises:
        ValueError: The header is another, or a line has an unknown decision.
    """
    rows = decision_rows(path)
    return Decisions(
        frozenset(row[1] for row in rows if row[0] == "drop_train"),
        frozenset(row[2] for row in rows if row[0] == "drop_evaluation"),
        sum(row[0] == "undecided" for row in rows),
    )


def decision_rows(path: Path) -> list[list[str]]:
    """Read the TSV table in which a person decides about pairs of tasks that share text, and return its rows.

    A row has the columns of ``COLUMNS``: the decision, the training task, the evaluation task, and numbers.

    Raises:
        ValueError: The header is another, or a line has an unknown decision.
    """
    lines = (f"{line}\n" for _, line in text_lines(path))
    try:
        header, *rows = list(csv.reader(lines, delimiter="\t")) or [[]]
    except csv.Error as error:
        raise ValueError(f"{path} is not a table of decisions ({error}): mend it, or remove it") from error
    if tuple(header) != COLUMNS:
        raise ValueError(f"{path} is not a table of decisions: its first line should be {' | '.join(COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS) or row[0] not in DECISIONS:
            raise ValueError(
                f"{path}, line {number}: expected one of {', '.join(DECISIONS)} and {len(COLUMNS) - 1} more columns, "
                f"got {row}"
            )
    return rows
