"""Figures of learned instructions: a map of them by category, and curves over the steps of training."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...datamodules.visible_text import shortened, visible
from .figure_style import COLORS, INK, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST_NAME = 30  # characters of a category in the legend


@styled
def instruction_map(human: NDArray[np.float64], learned: NDArray[np.float64], categories: Sequence[str]) -> "Figure":
    """Points [n, 2] of human-written instructions as circles and of learned ones as crosses, colored by category."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    names = sorted(set(categories))
    palette = [colormaps["tab20"](place % 20) for place in range(len(names))]
    colors = [palette[names.index(category)] for category in categories]
    figure, axes = new_figure(6.4, margins=(0.4, 2.9, 0.4, 0.15))
    axes.scatter(human[:, 0], human[:, 1], s=26, color=colors, marker="o", linewidth=0, gid="human")
    axes.scatter(learned[:, 0], learned[:, 1], s=30, color=colors, marker="x", linewidth=1.6, gid="learned")
    axes.set(xticks=[], yticks=[], xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2")
    kinds = [
        Line2D([], [], linestyle="", color=INK, marker=marker, label=label)
        for marker, label in (("o", "human-written"), ("x", "learned"))
    ]
    marks = [
        Line2D([], [], linestyle="", marker="s", color=color, label=shortened(visible(name), LONGEST_NAME))
        for name, color in zip(names, palette, strict=True)
    ]
    axes.legend(handles=[*kinds, *marks], loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return figure


@styled
def training_curves(curves: Mapping[str, Sequence[tuple[int, float]]], quantity: str) -> "Figure":
    """A line for each name over optimizer steps; the axis is logarithmic if positive values span two decades.

    Args:
        curves: By name, pairs of step and value; values that are not finite leave a gap.
        quantity: What the values are, beside the axis.
    """
    figure, axes = new_figure(3.4, margins=(0.75, 2.6, 0.5, 0.15))
    for place, (name, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        heights = [value if math.isfinite(value) else math.nan for value in values]
        color = COLORS[place % len(COLORS)]
        axes.plot(
            steps, heights, color=color, linewidth=1.4, marker="o", markersize=2.5, label=visible(name), gid="curve"
        )
    finite = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > 100:
        _use_logarithmic_axis(axes)
    axes.grid(axis="y")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(quantity)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)
    return figure


def _use_logarithmic_axis(axes: "Axes") -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default writes powers as TeX, which is off
    axes.yaxis.set_minor_formatter(NullFormatter())
