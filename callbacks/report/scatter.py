"""A map of points and lines over steps, as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from numpy.typing import NDArray

COLORS = ("#0b5c9e", "#c8590c", "#167a55", "#87408f", "#75650b", "#b03060", "#3b7d9b", "#8a5a2b", "#4b6f1f", "#55606e")
WIDTH, HEIGHT, MARGIN = 760, 560, 46


def scatter_svg(kinds: Mapping[str, NDArray], labels: Sequence[str]) -> str:
    """Points [n, 2] of each kind: the first as circles, the second as crosses, colored by label."""
    everything = [point for points in kinds.values() for point in points.tolist()]
    xs, ys = ([point[axis] for point in everything] for axis in (0, 1))
    names = sorted(set(labels))
    parts = []
    for mark, (kind, points) in zip("o+", kinds.items(), strict=False):
        for (x, y), label in zip(points.tolist(), labels, strict=True):
            color = COLORS[names.index(label) % len(COLORS)]
            left, top = _scaled(x, xs, WIDTH - 230), HEIGHT - _scaled(y, ys, HEIGHT)
            title = f"<title>{escape(f'{label}, {kind}')}</title>"
            if mark == "o":
                parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4" fill="{color}">{title}</circle>')
            else:
                line = f"M{left - 4:.1f} {top:.1f}h8M{left:.1f} {top - 4:.1f}v8"
                parts.append(f'<path d="{line}" stroke="{color}" stroke-width="2">{title}</path>')
    legend = [" and ".join(f"{mark} {kind}" for mark, kind in zip("●+", kinds, strict=False)), *names]
    for row, text in enumerate(legend[:36]):
        color = "#1d2530" if row == 0 else COLORS[(row - 1) % len(COLORS)]
        parts.append(f'<text x="{WIDTH - 210}" y="{24 + 14 * row}" fill="{color}">{escape(text[:34])}</text>')
    return _svg(parts, "Instructions by category")


def curves_svg(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> str:
    """One line for each name over the steps; on a logarithmic axis where all values are positive and far apart."""
    values = [value for points in curves.values() for _, value in points if math.isfinite(value)] or [0.0]
    logarithmic = min(values) > 0 and max(values) / min(values) > 100
    heights = [math.log10(value) if logarithmic else value for value in values]
    steps = [float(step) for points in curves.values() for step, _ in points]
    parts = []
    for row, (name, points) in enumerate(curves.items()):
        finite = [(step, math.log10(v) if logarithmic else v) for step, v in points if math.isfinite(v)]
        places = " ".join(
            f"{_scaled(step, steps, WIDTH):.1f},{HEIGHT - _scaled(value, heights, HEIGHT):.1f}"
            for step, value in finite
        )
        color = COLORS[row % len(COLORS)]
        parts.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        parts.append(f'<text x="{MARGIN}" y="{16 + 14 * row}" fill="{color}">{escape(name)}</text>')
    for value in (min(heights), max(heights)):
        shown = 10**value if logarithmic else value
        parts.append(f'<text x="2" y="{HEIGHT - _scaled(value, heights, HEIGHT):.1f}">{shown:.3g}</text>')
    for step in (min(steps), max(steps)):
        parts.append(f'<text x="{_scaled(step, steps, WIDTH) - 12:.1f}" y="{HEIGHT - 14}">{step:.0f}</text>')
    return _svg(parts, title)


def _scaled(value: float, values: Sequence[float], size: int) -> float:
    low, high = min(values), max(values)
    return MARGIN + (size - 2 * MARGIN) * ((value - low) / (high - low) if high > low else 0.5)


def _svg(parts: Sequence[str], title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="11">', f"<title>{escape(title)}</title>", *parts, "</svg>", ""])
