"""Charts as SVG: bars with intervals, lines over shots, differences. Scores in [0, 1] are drawn in percent.

Each stands in a page, or in a file of its own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ...lightning_modules.evaluation.significance import Difference, Estimate
from .markup import Markup, element, join, shortened

COLORS = ("#0b5c9e", "#c8590c", "#167a55", "#87408f", "#75650b", "#55606e")
"""One for each system; dark enough on white, and apart for people who see colors differently."""
INK, PALE, GRID = "#1d2530", "#5b6675", "#e3e7ec"
WIDTH, LABELS, VALUES = 960, 290, 132  # pixels: the chart, the names on its left, the numbers on its right
PLOT = WIDTH - LABELS - VALUES
PITCH, BAR, GAP, AXIS = 14, 9, 7, 22  # of a row's bars, a bar's height, between rows, above the first row


class Row(NamedTuple):
    """A row of bars: its name, what is said in small print, and an estimate for each system (None: it has none)."""

    label: str
    note: str
    estimates: Sequence[Estimate | None]


def bars(rows: Sequence[Row], title: str) -> Markup:
    """Horizontal bars from 0 to 100 percent, with intervals; of repeated runs, a dot for each."""
    parts, y = [_percent_axis(_height([len(row.estimates) for row in rows]))], float(AXIS)
    for row in rows:
        middle = y + len(row.estimates) * PITCH / 2
        parts.append(_name(row.label, row.note, middle))
        for system, estimate in enumerate(row.estimates):
            parts.append(_bar(estimate, COLORS[system], y + PITCH / 2))
            y += PITCH
        y += GAP
    return _svg(parts, WIDTH, y + 4, title)


def _bar(estimate: Estimate | None, color: str, y: float) -> Markup:
    if estimate is None:
        return _text("not evaluated", LABELS + 6, y, size=11, fill=PALE)
    length = max(PLOT * estimate.mean, 0.5)
    return join(
        [
            element(
                "rect", x=LABELS, y=_round(y - BAR / 2), width=_round(length), height=BAR, fill=color, fill_opacity=0.62
            ),
            _whisker(_x(estimate.low), _x(estimate.high), y),
            *(_dot(_x(mean), y) for mean in estimate.runs),
            _text(_numbers(estimate), WIDTH - VALUES + 10, y, size=11),
        ]
    )


def _numbers(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.1f}  [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _x(score: float) -> float:
    """Where a score in [0, 1] stands; the end of an interval may lie outside, and is drawn at the edge."""
    return LABELS + PLOT * min(max(score, 0.0), 1.0)


def _whisker(low: float, high: float, y: float) -> Markup:
    """An interval, readable on a bar and beside it."""
    path = f"M{low:.1f} {y - 3:.1f}V{y + 3:.1f}M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 3:.1f}V{y + 3:.1f}"
    return element("path", d=path, fill="none", stroke=INK, stroke_width=1.3)


def _dot(x: float, y: float) -> Markup:
    return element("circle", cx=_round(x), cy=_round(y), r=2.4, fill="#fff", stroke=INK, stroke_width=1)


def differences(rows: Sequence[tuple[str, Difference]], title: str, color: str) -> Markup:
    """Differences in points with their intervals around 0; hollow where the interval holds 0."""
    reach = _reach(max(max(abs(found.low), abs(found.high)) for _, found in rows))
    height = _height([1] * len(rows))

    def x(points: float) -> float:
        return LABELS + PLOT * (points / reach + 1) / 2

    parts = [_axis([(x(tick), f"{100 * tick:+.0f}" if tick else "0") for tick in _ticks(reach)], height)]
    parts.append(element("path", d=f"M{x(0):.1f} {AXIS - 4}V{height:.0f}", stroke=INK, stroke_width=1))
    for place, (name, found) in enumerate(rows):
        y = AXIS + place * (PITCH + GAP) + PITCH / 2
        sure = found.low > 0 or found.high < 0
        parts += [
            _name(name, "", y),
            _whisker(x(found.low), x(found.high), y),
            element(
                "circle", cx=_round(x(found.mean)), cy=_round(y), r=4.5, fill=color if sure else "#fff", stroke=color,
                stroke_width=2,
            ),
            _text(f"{100 * found.mean:+.1f}  (p {found.p:.3f})", WIDTH - VALUES + 10, y, size=11),
        ]  # fmt: skip
    return _svg(parts, WIDTH, height + 4, title)


def _reach(largest: float) -> float:
    """Half of a symmetric axis that holds `largest`."""
    return next((reach for reach in (0.02, 0.05, 0.1, 0.2, 0.5) if largest <= reach), 1.0)


def _ticks(reach: float) -> list[float]:
    return [reach * part for part in (-1.0, -0.5, 0.0, 0.5, 1.0)]


class Line(NamedTuple):
    """A system's estimates over the numbers of shots; None where it has none."""

    estimates: Sequence[Estimate | None]


def lines(panels: Sequence[tuple[str, Sequence[Line]]], shots: Sequence[int], title: str) -> Markup:
    """A small panel for each heading: scores from 0 to 100 percent over numbers of shots, a line for each system."""
    each, height, top = WIDTH / len(panels), 190, 26
    parts = []
    for place, (heading, systems) in enumerate(panels):
        left, right = place * each + 34, (place + 1) * each - 16
        xs = [left + 16 + (right - left - 32) * i / max(len(shots) - 1, 1) for i in range(len(shots))]
        parts += [_text(heading, left, 10, size=12, weight=600), *_panel_axes(left, right, top, height)]
        parts += [
            _text(str(k), x, height + 13, size=11, anchor="middle", fill=PALE) for k, x in zip(shots, xs, strict=True)
        ]
        parts.append(_text("shots", (left + right) / 2, height + 28, size=11, anchor="middle", fill=PALE))
        for system, line in enumerate(systems):
            nudge = (system - (len(systems) - 1) / 2) * 5  # intervals beside each other, not on top
            points = [
                (x + nudge, estimate) for x, estimate in zip(xs, line.estimates, strict=True) if estimate is not None
            ]
            parts.append(_line(points, COLORS[system], top, height))
    return _svg(parts, WIDTH, height + 38, title)


def _panel_axes(left: float, right: float, top: float, bottom: float) -> list[Markup]:
    parts = []
    for tick in (0, 25, 50, 75, 100):
        y = bottom - (bottom - top) * tick / 100
        parts.append(element("path", d=f"M{left:.1f} {y:.1f}H{right:.1f}", stroke=GRID))
        parts.append(_text(str(tick), left - 6, y, size=10, anchor="end", fill=PALE))
    return parts


def _line(points: Sequence[tuple[float, Estimate]], color: str, top: float, bottom: float) -> Markup:
    def y(score: float) -> float:
        return bottom - (bottom - top) * min(max(score, 0.0), 1.0)

    way = "L".join(f"{x:.1f} {y(estimate.mean):.1f}" for x, estimate in points)
    marks = [
        join(
            [
                element("path", d=f"M{x:.1f} {y(e.low):.1f}V{y(e.high):.1f}", stroke=color, stroke_width=1.4),
                element("circle", cx=_round(x), cy=_round(y(e.mean)), r=3.6, fill=color),
            ]
        )
        for x, e in points
    ]
    return join(
        [element("path", d=f"M{way}", fill="none", stroke=color, stroke_width=2) if points else Markup(), *marks]
    )


class Sized(Protocol):
    """A score in [0, 1] with its interval, of something of a size."""

    @property
    def parameters(self) -> float: ...
    @property
    def score(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def over_sizes(systems: Mapping[str, Sequence[Sized]], title: str) -> Markup:
    """Scores in percent over the logarithm of a size, a line for each system; its name stands at its largest size."""
    height, top, left, right = 380, 12, 44, WIDTH - 230
    points = [point for own in systems.values() for point in own]
    low, high = (math.log10(edge(point.parameters for point in points)) for edge in (min, max))
    low, high = low - 0.15, high + 0.15  # a single size stands in the middle
    floor, ceiling = min(point.low for point in points), max(point.high for point in points)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (ceiling - floor) / step <= 8)
    first, last = math.floor(floor / step), math.ceil(ceiling / step + 1e-9)
    last = max(last, first + 1)

    def x(size: float) -> float:
        return left + (right - left) * (math.log10(size) - low) / (high - low)

    def y(score: float) -> float:
        return height - (height - top) * (score / step - first) / (last - first)

    parts = []
    for tick in range(first, last + 1):
        parts.append(element("path", d=f"M{left} {y(tick * step):.1f}H{right}", stroke=GRID))
        parts.append(_text(f"{100 * tick * step:g}", left - 6, y(tick * step), size=11, anchor="end", fill=PALE))
    decades = range(math.floor(low), math.ceil(high) + 1)
    for size in (digit * 10.0**power for power in decades for digit in (1, 2, 5)):
        if low <= math.log10(size) <= high:
            parts.append(element("path", d=f"M{x(size):.1f} {top}V{height}", stroke=GRID))
            parts.append(_text(short_number(size), x(size), height + 13, size=11, anchor="middle", fill=PALE))
    parts.append(_text("parameters", (left + right) / 2, height + 30, size=11, anchor="middle", fill=PALE))
    names: list[float] = []
    for place, (name, own) in enumerate(sorted(systems.items(), key=lambda item: -item[1][-1].score)):
        color = COLORS[place % len(COLORS)]
        way = "L".join(f"{x(point.parameters):.1f} {y(point.score):.1f}" for point in own)
        parts.append(element("path", d=f"M{way}", fill="none", stroke=color, stroke_width=2))
        for point in own:
            at = x(point.parameters)
            parts.append(element("path", d=f"M{at:.1f} {y(point.low):.1f}V{y(point.high):.1f}", stroke=color))
            parts.append(element("circle", cx=_round(at), cy=_round(y(point.score)), r=3.6, fill=color))
        names.append(max(y(own[-1].score), names[-1] + 14 if names else 0.0))  # below the one before it
        parts.append(_text(name, right + 10, names[-1], size=12, fill=color))
    return _svg(parts, WIDTH, max(height + 42, names[-1] + 12), title)


def short_number(number: float) -> str:
    """A size as people say it.

    >>> short_number(2e8), short_number(11e9), short_number(500)
    ('200M', '11B', '500')
    """
    for name, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def _percent_axis(height: float) -> Markup:
    return _axis([(_x(tick / 100), f"{tick}") for tick in range(0, 101, 20)], height)


def _axis(ticks: Sequence[tuple[float, str]], height: float) -> Markup:
    return join(
        join(
            [
                element("path", d=f"M{x:.1f} {AXIS - 4}V{height:.0f}", stroke=GRID),
                _text(said, x, 9, size=11, anchor="middle", fill=PALE),
            ]
        )
        for x, said in ticks
    )


def _height(rows: Sequence[int]) -> float:
    """Where the last row of so many bars each ends."""
    return AXIS + sum(count * PITCH + GAP for count in rows)


def _name(label: str, note: str, y: float) -> Markup:
    room = 44 - (len(note) + 1 if note else 0)
    said = [element("title", label), shortened(label, max(room, 12))]
    if note:
        said.append(element("tspan", f" {note}", fill=PALE))
    return element("text", *said, x=LABELS - 10, y=_round(y), font_size=12, fill=INK, **_anchored("end"))


def _text(
    said: str, x: float, y: float, *, size: int, anchor: str = "start", fill: str = INK, weight: int | None = None
) -> Markup:
    return element(
        "text", said, x=_round(x), y=_round(y), font_size=size, fill=fill, font_weight=weight, **_anchored(anchor)
    )


def _anchored(anchor: str) -> dict[str, str | None]:
    return {"text_anchor": None if anchor == "start" else anchor, "dominant_baseline": "central"}


def _svg(parts: Sequence[Markup], width: float, height: float, title: str) -> Markup:
    # In a page the style sheet's font wins; in a file of its own a chart needs the namespace, or it is not drawn.
    return element(
        "svg", element("title", title), *parts, xmlns="http://www.w3.org/2000/svg", font_family="sans-serif",
        viewBox=f"0 0 {width:.0f} {height:.0f}", role="img", aria_label=title,
    )  # fmt: skip


def _round(number: float) -> str:
    return f"{number:.1f}"
