"""The table of decisions about pairs of tasks that share text; splits drop the tasks that it names."""

import csv
from pathlib import Path
from typing import NamedTuple

from ..data_files import text_lines

DECISIONS = ("undecided", "keep", "drop_train", "drop_evaluation")

COLUMNS = ("decision", "training task", "evaluation task", "hit", "examples", "share")


class Decisions(NamedTuple):
    """Names of the tasks to drop, and the number of undecided pairs."""

    drop_train: frozenset[str]
    drop_evaluation: frozenset[str]
    undecided: int


def read_decisions(path: Path) -> Decisions:
    """The decisions of a table."""
    rows = decision_rows(path)
    return Decisions(
        frozenset(row[1] for row in rows if row[0] == "drop_train"),
        frozenset(row[2] for row in rows if row[0] == "drop_evaluation"),
        sum(row[0] == "undecided" for row in rows),
    )


def decision_rows(path: Path) -> list[list[str]]:
    """The rows of a table of decisions, with the values of ``COLUMNS``."""
    lines = (f"{line}\n" for _, line in text_lines(path))
    header, *rows = list(csv.reader(lines, delimiter="\t")) or [[]]
    if tuple(header) != COLUMNS:
        raise ValueError(f"{path} is not a table of decisions: its first line should be {' | '.join(COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS) or row[0] not in DECISIONS:
            raise ValueError(
                f"{path}, line {number}: expected one of {', '.join(DECISIONS)} and {len(COLUMNS) - 1} more columns, "
                f"got {row}"
            )
    return rows
