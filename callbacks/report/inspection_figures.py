"""Figures of ``crosstask inspect``: histograms of lengths, and packed rows with their documents."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...datamodules.inspection.lengths import LengthHistogram
from ...datamodules.inspection.read_rows import ReadRow
from .figure_style import COLORS, INK, PALE, lightened, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR = 0.22  # inches: a bar with its space


@styled
def length_bars(histogram: LengthHistogram) -> "Figure":
    """Return a figure with a bar for each range of lengths; bars above the limit have another color."""
    bins, limit = histogram.bins, histogram.limit
    figure, axes = new_figure(max(len(bins), 1) * BAR + 0.55, margins=(1.3, 0.9, 0.45, 0.1))
    places = range(len(bins))
    colors = [COLORS[1] if limit is not None and each.first > limit else COLORS[0] for each in bins]
    axes.barh(places, [each.documents for each in bins], height=0.7, color=[lightened(color) for color in colors])
    for place, each in zip(places, bins, strict=True):
        axes.annotate(
            f"{each.documents:,}",
            (each.documents, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    axes.set_yticks(list(places), [bin_name(each.first, each.last) for each in bins], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("documents by tokens")
    return figure


def bin_name(first: int, last: int) -> str:
    """Return a range of lengths as text.

    >>> bin_name(1, 1), bin_name(1024, 2047)
    ('1', '1,024–2,047')
    """
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


@styled
def row_strips(rows: Sequence[ReadRow]) -> "Figure":
    """Return a figure with a strip for each row, at least one: its documents in two colors in turn, over tokens.

    Targets are dark, and padding is empty.
    """
    figure, axes = new_figure(len(rows) * 0.4 + 0.55, margins=(0.9, 0.2, 0.45, 0.1))
    for place, row in enumerate(rows):
        begin = 0
        for number, document in enumerate(row.documents):
            color = COLORS[0] if number % 2 == 0 else COLORS[2]
            source = document.tokens - document.targets
            spans = [(begin, source), (begin + source, document.targets)]
            axes.broken_barh(spans, (place - 0.35, 0.7), facecolors=[lightened(color), color])
            begin += document.tokens
        axes.broken_barh([(begin, row.padding)], (place - 0.35, 0.7), facecolors="none", edgecolors=PALE)
    axes.set_yticks(range(len(rows)), [f"row {place + 1}" for place in range(len(rows))], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(row.columns for row in rows))
    axes.invert_yaxis()
    axes.set_xlabel("tokens")
    return figure
