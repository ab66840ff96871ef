"""Figures of learned instructions: a map by category, and curves over the steps of training."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...datamodules.visible_text import shortened, visible
from ...lightning_modules.evaluation.significance import seed_interval
from .figure_style import COLORS, INK, PALE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHAPES = "osD^vPX"
MARKS = len(COLORS) * len(SHAPES)
"""Categories with different marks: six colors and seven shapes have no common divisor."""
KINDS = {"human": COLORS[0], "initial": PALE, "learned": COLORS[1]}
LONGEST_NAME = 30  # characters of a category in the legend


@styled
def instruction_map(points: Mapping[str, NDArray[np.float64]], categories: Sequence[str]) -> "Figure":
    """Return a map of instructions with a mark for each category.

    Human-written instructions are filled marks, learned ones hollow, initial ones dots.

    Args:
        points: [n, 2] by kind of instruction: human, initial, learned.
        categories: Category of each of the n tasks.
    """
    from matplotlib.lines import Line2D

    names = sorted(set(categories))
    marks = {name: category_mark(place) for place, name in enumerate(names)}
    figure, axes = new_figure(6.4, margins=(0.4, 2.9, 0.4, 0.15))
    if "initial" in points:
        initial = points["initial"]
        axes.scatter(initial[:, 0], initial[:, 1], s=7, color=PALE, marker=".", gid="initial")
    for name in names:
        rows = [place for place, category in enumerate(categories) if category == name]
        color, shape = marks[name]
        human, learned = points["human"][rows], points["learned"][rows]
        axes.scatter(human[:, 0], human[:, 1], s=26, color=color, marker=shape, linewidth=0, gid="human")
        x, y = learned[:, 0], learned[:, 1]
        axes.scatter(x, y, s=26, facecolors="none", edgecolors=color, marker=shape, linewidth=1.1, gid="learned")
    axes.set(xticks=[], yticks=[], xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2")
    kinds = [
        Line2D([], [], linestyle="", color=INK, marker="o", label="human-written"),
        Line2D([], [], linestyle="", color=INK, marker="o", markerfacecolor="none", label="learned"),
    ]
    if "initial" in points:
        kinds.append(Line2D([], [], linestyle="", color=PALE, marker=".", label="initial, of any category"))
    shown = [
        Line2D([], [], linestyle="", marker=shape, color=color, label=shortened(visible(name), LONGEST_NAME))
        for name, (color, shape) in marks.items()
    ]
    axes.legend(handles=[*kinds, *shown], loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return figure


def category_mark(place: int) -> tuple[str, str]:
    """Return the color and the shape of the marks by which a figure shows the category with index `place`.

    Consecutive categories differ in both; the first MARKS categories all differ.

    >>> len({category_mark(place) for place in range(MARKS)}) == MARKS
    True
    """
    return COLORS[place % len(COLORS)], SHAPES[place % len(SHAPES)]


@styled
def sweep_figure(
    results: Mapping[float, Sequence[float]],
    setting: str,
    quantity: str,
    *,
    logarithmic: bool,
    baseline: Sequence[float] = (),
) -> "Figure":
    """Return a figure of the mean over seeds with its 95% t-interval, for each value of a setting; dots are seeds.

    Args:
        results: Result of each seed, by the setting's value; an interval needs two seeds.
        setting: Name of the varied setting, below the axis.
        quantity: Name of the measured quantity, beside the axis.
        logarithmic: Whether the setting's axis is logarithmic, to base 2.
        baseline: Result of each seed without learned instructions, drawn as a line in a band; empty for none.
    """
    figure, axes = new_figure(3.6, margins=(0.75, 2.6, 0.55, 0.15))
    values = sorted(results)
    if baseline:
        axes.axhline(
            float(np.mean(baseline)), color=COLORS[1], linewidth=1.4, linestyle="--", label="definitions alone"
        )
        if len(baseline) > 1:
            band = seed_interval(baseline, count=1)
            axes.axhspan(band.low, band.high, color=COLORS[1], alpha=0.12, linewidth=0, label="its 95% interval")
    means = [float(np.mean(results[value])) for value in values]
    for value in values:
        label = "single seeds" if value == values[0] else None
        axes.scatter(
            [value] * len(results[value]), results[value], s=8, color=PALE, linewidth=0, label=label, gid="seed"
        )
    seeds = [results[value] for value in values]
    widths = [math.nan if len(s) < 2 else seed_interval(s, count=1).high - m for s, m in zip(seeds, means, strict=True)]
    style: dict[str, Any] = {"color": COLORS[0], "linewidth": 1.4, "marker": "o", "markersize": 4, "capsize": 3}
    axes.errorbar(values, means, yerr=widths, label="learned, mean and 95% interval", **style)
    if logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, labels=[f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.grid(axis="y")
    axes.set_xlabel(setting)
    axes.set_ylabel(quantity)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)
    return figure


@styled
def training_curves(curves: Mapping[str, Sequence[tuple[int, float]]], quantity: str) -> "Figure":
    """Return a figure with a line for each name over inner steps.

    The vertical axis is logarithmic if the values are positive and span two decades. Curves "KIND, within categories"
    and "KIND, between categories" have a color for each kind, the initial ones a broad line in which equal learned ones
    are seen.

    Args:
        curves: Pairs of inner step and value, by name; values that are not finite leave a gap.
        quantity: Name of the values, beside the axis.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(3.4, margins=(0.75, 2.6, 0.5, 0.15))
    for place, (name, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        heights = [value if math.isfinite(value) else math.nan for value in values]
        axes.plot(steps, heights, label=visible(name), gid="curve", **_line(name, place))
    finite = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > 100:
        _use_logarithmic_axis(axes)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("inner step")
    axes.set_ylabel(quantity)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)
    return figure


def _line(name: str, place: int) -> dict[str, Any]:
    """Return the style of a curve by its name, or else by its place among the curves."""
    kind, _, measure = name.partition(", ")
    style: dict[str, Any] = {"color": COLORS[place % len(COLORS)], "linewidth": 1.4, "marker": "o", "markersize": 2.5}
    if kind in KINDS and measure:
        style |= {"color": KINDS[kind], "linestyle": "--" if measure.startswith("between") else "-"}
    if kind == "initial":
        style |= {"linewidth": 5.0, "alpha": 0.3, "marker": ""}
    return style


def _use_logarithmic_axis(axes: "Axes") -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default writes powers as TeX, which is off
    axes.yaxis.set_minor_formatter(NullFormatter())
