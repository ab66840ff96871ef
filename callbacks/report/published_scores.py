"""Scores that a paper publishes for the arms of an experiment, beside those of our runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...datamodules.visible_text import escape_markdown
from ...lightning_modules.evaluation.aggregation import Cell
from ...lightning_modules.evaluation.significance import Estimate
from .comparison import System
from .text import level_name, markdown_table, percent


@dataclass(frozen=True)
class PublishedTable:
    """Percentages in a table of a paper, for the arms (variants of a recipe) of a `crosstask sweep`.

    Args:
        source: Name of the paper and number of the table.
        shots: Numbers of shots that the table shows, in its order.
        columns: For each column of the table, by its name, the key of the same score in a report, without shots.
        scores: By arm and column, a percentage for each number of shots, or for the first ones only.
    """

    source: str
    shots: tuple[int, ...]
    columns: Mapping[str, Cell]
    scores: Mapping[str, Mapping[str, tuple[float, ...]]]


@dataclass(frozen=True)
class ComparedScore:
    """A published score and ours, for one arm (variant of a recipe), column and number of shots.

    Args:
        arm: Name of the arm.
        column: Name of the column.
        level: Level of the column; empty for an average.
        shots: Number of shots.
        published: The paper's percentage; None if it reports none.
        ours: Our score; None if nothing of this column was evaluated.
        change: Our score minus that of the first arm, in percentage points; None if one is missing.
        published_change: The paper's score minus that of its first arm, in percentage points.
    """

    arm: str
    column: str
    level: str
    shots: int
    published: float | None
    ours: Estimate | None
    change: float | None
    published_change: float | None


@dataclass(frozen=True)
class PublishedComparison:
    """The scores of a paper's table beside ours.

    Args:
        source: Name of the paper and number of the table.
        scores: Both scores for each arm, column and number of shots.
    """

    source: str
    scores: Sequence[ComparedScore]

    @property
    def note(self) -> str:
        """Sentences that explain the columns ``HEADER``."""
        return f"Published scores are those of {self.source}, in percent. Changes are from the first arm, in points."


HEADER = ("column", "shots", "arm", "published", "ours", "published change", "our change")
"""Columns of the table of a comparison."""


def compare_with_published(table: PublishedTable, systems: Sequence[System]) -> list[ComparedScore]:
    """Put the scores of a paper's table beside ours, for each arm that was run; changes are from the first one.

    Args:
        table: The paper's table.
        systems: Scores of the arms, named as in the table.
    """
    ours = {system.name: _estimates(system) for system in systems}
    base = systems[0].name
    compared = []
    for name, cell in table.columns.items():
        for place, shots in enumerate(table.shots):
            at_shots = cell._replace(shots=shots)
            for arm, estimates in ours.items():
                here, there = estimates.get(at_shots), ours[base].get(at_shots)
                change = None if here is None or there is None else 100 * (here.mean - there.mean)
                paper, paper_base = _published(table, arm, name, place), _published(table, base, name, place)
                paper_change = None if paper is None or paper_base is None else paper - paper_base
                level = cell.level or ""
                compared.append(ComparedScore(arm, name, level, shots, paper, here, change, paper_change))
    return [score for score in compared if score.published is not None or score.ours is not None]


def _published(table: PublishedTable, arm: str, column: str, place: int) -> float | None:
    numbers = table.scores.get(arm, {}).get(column, ())
    return numbers[place] if place < len(numbers) else None


def _estimates(system: System) -> dict[Cell, Estimate]:
    means = [*system.report.columns, *system.report.averages]
    return {mean.cell: mean.estimate for mean in means}


def published_lines(comparison: PublishedComparison) -> list[str]:
    """Return the comparison as lines of Markdown."""
    rows = [
        [
            escape_markdown(column_name(score)),
            str(score.shots),
            escape_markdown(score.arm),
            percentage(score.published),
            "not evaluated" if score.ours is None else percent(score.ours),
            signed(score.published_change),
            signed(score.change),
        ]
        for score in comparison.scores
    ]
    return [comparison.note, "", *markdown_table(list(HEADER), rows)]


def column_name(score: ComparedScore) -> str:
    """Return the name of a score's column, with its level."""
    return f"{score.column} ({level_name(score.level)})" if score.level else score.column


def percentage(number: float | None) -> str:
    """Return a percentage as text; empty for None.

    >>> percentage(12.5), percentage(None)
    ('12.5', '')
    """
    return "" if number is None else f"{number:.1f}"


def signed(number: float | None) -> str:
    """Return a change with its sign; empty for None.

    >>> signed(1.25), signed(-3.0), signed(None)
    ('+1.2', '-3.0', '')
    """
    return "" if number is None else f"{number:+.1f}"
