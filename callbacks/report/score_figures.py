"""Figures of scores in [0, 1], drawn in percent with 95% intervals: bars, differences, curves over shots and sizes."""

# n rows, S systems

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ...datamodules.messages import short_number
from ...datamodules.visible_text import shortened, visible
from ...lightning_modules.evaluation.significance import Difference, Estimate
from .figure_style import (
    INK,
    PALE,
    WIDTH,
    horizontal_legend,
    legend_columns,
    lightened,
    new_figure,
    repeats_a_color,
    styled,
    system_color,
    system_marker,
)
from .model_sizes import ModelScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS, NUMBERS = 3.5, 1.35  # inches: names on the left of the axes, numbers on their right
PITCH, GAP = 0.17, 0.09  # inches: a system's bar with its space, and between two rows
LEGEND, AXIS, EDGE = 0.32, 0.42, 0.1  # inches: above the axes, below them, above them without a legend
LEGEND_LINE = 0.19  # inches of each more line of a legend
LONGEST_LABEL = 50  # characters
PANELS_IN_A_ROW = 3


class ScoreRow(NamedTuple):
    """A row of bars: its name, a note in small print, and each system's estimate (None: not evaluated)."""

    label: str
    note: str
    estimates: Sequence[Estimate | None]


@styled
def score_bars(rows: Sequence[ScoreRow], systems: Sequence[str]) -> "Figure":
    """Return a figure of horizontal bars from 0 to 100 percent with intervals; repeated runs are dots."""
    step = len(systems) * PITCH + GAP
    several = len(systems) > 1
    columns = legend_columns(systems, WIDTH - LABELS)
    legend = LEGEND + LEGEND_LINE * (math.ceil(len(systems) / columns) - 1)
    figure, axes = _row_axes(len(rows), step, top=legend if several else EDGE)
    for place in range(len(systems)):
        centres = [(row + 0.5) * step + (place - (len(systems) - 1) / 2) * PITCH for row in range(len(rows))]
        _draw_bars(axes, centres, [row.estimates[place] for row in rows], place)
    _label_rows(axes, [(row.label, row.note) for row in rows], step)
    axes.set_xlim(0, 100)
    axes.set_xlabel("score (%), with 95% interval")
    if several:
        horizontal_legend(figure, _patches(systems), columns=columns, left=LABELS)
    return figure


def _row_axes(count: int, step: float, top: float) -> "tuple[Figure, Axes]":
    """Axes whose vertical unit is an inch, so that bars are equally thick in every figure."""
    figure, axes = new_figure(count * step + top + AXIS, margins=(LABELS, NUMBERS, AXIS, top))
    axes.set_ylim(count * step, 0)
    axes.grid(axis="x")
    axes.spines["left"].set_color(PALE)
    return figure, axes


def _label_rows(axes: "Axes", labels: Sequence[tuple[str, str]], step: float) -> None:
    axes.set_yticks([(row + 0.5) * step for row in range(len(labels))])
    texts = [
        shortened(visible(label), max(LONGEST_LABEL - len(note), 14)) + (f" ({note})" if note else "")
        for label, note in labels
    ]
    axes.set_yticklabels(texts, color=INK)
    axes.tick_params(axis="y", length=0)


def _draw_bars(axes: "Axes", centres: Sequence[float], estimates: Sequence[Estimate | None], place: int) -> None:
    shown = [(y, estimate) for y, estimate in zip(centres, estimates, strict=True) if estimate is not None]
    for y, estimate in zip(centres, estimates, strict=True):
        text = "not evaluated" if estimate is None else _numbers(estimate)
        axes.annotate(
            text, (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=8, color=PALE if estimate is None else INK,
        )  # fmt: skip
    if not shown:
        return
    ys = [y for y, _ in shown]
    means = [100 * estimate.mean for _, estimate in shown]
    axes.barh(ys, means, height=0.65 * PITCH, **_area(place))
    lengths = _interval_lengths([estimate for _, estimate in shown])
    axes.errorbar(means, ys, xerr=lengths, fmt="none", ecolor=INK, elinewidth=1)
    runs = [(100 * mean, y) for y, estimate in shown for mean in estimate.runs]
    if runs:
        means_of_runs, ys_of_runs = zip(*runs, strict=True)
        axes.scatter(means_of_runs, ys_of_runs, s=9, facecolor="white", edgecolor=INK, linewidth=0.7, zorder=3)


def _interval_lengths(estimates: Sequence[Estimate | Difference | ModelScore]) -> np.ndarray:
    """Lengths [2, n] of intervals below and above their means, in percent."""
    ends = [(_mean(e) - e.low, e.high - _mean(e)) for e in estimates]
    return 100 * np.maximum(np.array(ends, dtype=float).T, 0.0)


def _mean(estimate: Estimate | Difference | ModelScore) -> float:
    return estimate.score if isinstance(estimate, ModelScore) else estimate.mean


def _numbers(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.1f}  [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _patches(systems: Sequence[str]) -> list:
    from matplotlib.patches import Patch

    return [Patch(label=visible(name), **_area(place)) for place, name in enumerate(systems)]


def _area(place: int) -> dict[str, Any]:
    """How the bar of the system at a place is filled."""
    color = system_color(place)
    if repeats_a_color(place):
        return {"facecolor": "white", "edgecolor": color, "linewidth": 1.1}
    return {"facecolor": lightened(color), "linewidth": 0}


@styled
def difference_intervals(rows: Sequence[tuple[str, Difference]], color: str, label: str) -> "Figure":
    """Return a figure of differences in percentage points with their 95% intervals.

    A mark is filled if its interval excludes 0, and hollow otherwise.

    Args:
        rows: Names and differences, from top to bottom.
        color: Color of the system that is compared.
        label: Name of the difference, below the axis.
    """
    step = PITCH + GAP
    figure, axes = _row_axes(len(rows), step, top=LEGEND)
    _label_rows(axes, [(name, "") for name, _ in rows], step)
    axes.axvline(0, color=INK, linewidth=1)
    excluded = [row.low > 0 or row.high < 0 for _, row in rows]
    for kind, face in ((True, color), (False, "white")):
        places = [place for place, excludes in enumerate(excluded) if excludes == kind]
        if places:
            differences = [rows[place][1] for place in places]
            means = [100 * difference.mean for difference in differences]
            points, *_ = axes.errorbar(
                means, [(place + 0.5) * step for place in places], xerr=_interval_lengths(differences),
                fmt="o", color=color, ecolor=color, markerfacecolor=face, markersize=5, markeredgewidth=1.4,
                elinewidth=1.2,
            )  # fmt: skip
            points.set_gid("differences")
    for place, (_, difference) in enumerate(rows):
        axes.annotate(
            f"{100 * difference.mean:+.1f}  (p = {difference.p:.3f})", (1, (place + 0.5) * step),
            xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    _centre_on_zero(axes, [difference for _, difference in rows])
    axes.set_xlabel(f"{visible(label)} (percentage points), with 95% interval")
    horizontal_legend(figure, _interval_marks(color), columns=2, left=LABELS)
    return figure


def _centre_on_zero(axes: "Axes", differences: Sequence[Difference]) -> None:
    reach = 100 * max(max(abs(row.low), abs(row.high), abs(row.mean)) for row in differences)
    limit = 1.08 * max(reach, 1.0)
    axes.set_xlim(-limit, limit)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")


def _interval_marks(color: str) -> list:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], marker="o", linestyle="", color=color, markerfacecolor=face, markeredgewidth=1.4, label=label)
        for face, label in ((color, "interval excludes 0"), ("white", "interval includes 0"))
    ]


Panel = tuple[str, Sequence[Sequence[Estimate | None]]]
"""A heading and, for each system, its estimates at each number of shots."""


@styled
def shot_curves(panels: Sequence[Panel], shots: Sequence[int], systems: Sequence[str]) -> "Figure":
    """Return a figure with a panel for each heading: scores over the number of shots, a line for each system.

    Args:
        panels: (heading, estimates by system and number of shots) of each panel; None for an estimate that is missing.
        shots: Numbers of shots, from left to right.
        systems: Names of the systems.
    """
    from matplotlib.figure import Figure

    columns = legend_columns(systems, WIDTH)
    more_lines = LEGEND_LINE * (math.ceil(len(systems) / columns) - 1)
    figure = Figure(figsize=(WIDTH, 2.9 + more_lines))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    top = 1 - (0.64 + more_lines if len(systems) > 1 else 0.29) / (2.9 + more_lines)
    figure.subplots_adjust(left=0.062, right=0.99, bottom=0.49 / (2.9 + more_lines), top=top, wspace=0.12)
    for axes, (heading, estimates_of_systems) in zip(all_axes, panels, strict=True):
        axes.set_title(heading)
        axes.grid(axis="y")
        axes.set_xticks(range(len(shots)), [str(count) for count in shots])
        axes.set_xlim(-0.4, len(shots) - 0.6)
        axes.set_xlabel("demonstrations (shots)")
        for place, estimates in enumerate(estimates_of_systems):
            shift = (place - (len(systems) - 1) / 2) * 0.06  # intervals beside each other, not on top
            _draw_curve(axes, [(x + shift, e) for x, e in enumerate(estimates) if e is not None], place)
    all_axes[0].set_ylabel("score (%)")
    if len(systems) > 1:
        horizontal_legend(figure, _curve_marks(systems), columns=columns, left=0.062 * WIDTH)
    return figure


def _draw_curve(axes: "Axes", points: Sequence[tuple[float, Estimate | ModelScore]], place: int) -> None:
    """Draw a line through means with intervals, in the color and marker of the system at index `place`."""
    if not points:
        return
    estimates = [estimate for _, estimate in points]
    curve, *_ = axes.errorbar(
        [x for x, _ in points], [100 * _mean(estimate) for estimate in estimates], yerr=_interval_lengths(estimates),
        color=system_color(place), marker=system_marker(place), linestyle=_line(place), markersize=4.5,
        linewidth=1.6, elinewidth=1.1,
    )  # fmt: skip
    curve.set_gid("curve")


def _line(place: int) -> Literal["-", "--"]:
    return "--" if repeats_a_color(place) else "-"


def _curve_marks(names: Sequence[str]) -> list:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [], [], color=system_color(place), marker=system_marker(place), linestyle=_line(place), markersize=4.5,
            label=shortened(visible(name), 34),
        )
        for place, name in enumerate(names)
    ]  # fmt: skip


@styled
def size_curves(scores: Mapping[str, Sequence[ModelScore]], metric: str) -> "Figure":
    """Return a figure of scores over the number of parameters on a logarithmic axis, a line for each name.

    Args:
        scores: Scores in ascending order of model size, by the line's name.
        metric: Name of the scores, beside the axis.
    """
    figure, axes = new_figure(4.2, margins=(0.65, 2.75, 0.5, 0.15))
    ordered = sorted(scores, key=lambda name: -scores[name][-1].score)  # the legend in the order of line ends
    for place, name in enumerate(ordered):
        _draw_curve(axes, [(point.parameters, point) for point in scores[name]], place)
    sizes = [point.parameters for points in scores.values() for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
    _format_sizes(axes)
    axes.grid()
    axes.set_xlabel("parameters of the model")
    axes.set_ylabel(f"{metric} (%), with 95% interval")
    axes.legend(handles=_curve_marks(ordered), loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)
    return figure


@styled
def size_panels(panels: Mapping[str, Mapping[str, Sequence[ModelScore]]], metric: str) -> "Figure":
    """Return a figure with a panel for each task: scores over the number of parameters, a line for each name.

    Args:
        panels: Scores in ascending order of model size, by the task's and the line's name.
        metric: Name of the scores, beside the axes.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for scores in panels.values() for name in scores))
    rows = -(-len(panels) // PANELS_IN_A_ROW)
    height = 2.1 * rows + LEGEND + AXIS
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(
        left=0.062, right=0.99, bottom=AXIS / height, top=1 - (LEGEND + 0.25) / height, wspace=0.16, hspace=0.36
    )
    grid = figure.subplots(rows, PANELS_IN_A_ROW, sharex=True, squeeze=False)
    sizes = [point.parameters for scores in panels.values() for points in scores.values() for point in points]
    for axes, (task, scores) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(shortened(visible(task), LONGEST_LABEL))
        for name, points in scores.items():
            _draw_curve(axes, [(point.parameters, point) for point in points], names.index(name))
        axes.set_xscale("log")
        axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
        _format_sizes(axes)
        axes.grid()
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{metric} (%)")
    for axes in grid[-1]:
        axes.set_xlabel("parameters of the model")
    horizontal_legend(figure, _curve_marks(names), columns=len(names), left=0.062 * WIDTH)
    return figure


def _format_sizes(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_xlim()
    digits = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=digits, numticks=30))
    axes.xaxis.set_major_formatter(lambda size, _: short_number(size))
    axes.xaxis.set_minor_formatter(NullFormatter())
