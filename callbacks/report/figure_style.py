"""The style of all figures, and their output as SVG in a page or as SVG, PDF and PNG files.

matplotlib takes a second to import, so functions import it where they draw. Its state is set for one drawing at a time.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ...datamodules.atomic_files import whole_file, write_whole
from ...datamodules.visible_text import visible
from .svg import clean_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

COLORS = ("#0b5c9e", "#c8590c", "#167a55", "#87408f", "#75650b", "#55606e")
"""A color for each system: dark enough on white, and different for people with color vision deficiency."""
MARKERS = "osD^vP"
MOST_SYSTEMS = 2 * len(COLORS)
"""Systems of one figure: those after the first six have the colors again, hollow or dashed."""
INK, PALE, GRID = "#1d2530", "#5b6675", "#dfe4ea"
WIDTH = 9.6
"""Inches of every figure; a page scales figures to its width, so that equal widths make equal fonts."""
FORMATS = ("svg", "pdf", "png")
LONGEST_SIDE = 60_000  # pixels of a PNG; matplotlib draws at most 65,535

STYLE: Mapping[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": PALE,
    "axes.labelcolor": PALE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "text.color": INK,
    "text.parse_math": False,  # names of tasks may hold dollar signs
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "pdf.fonttype": 42,
    "svg.hashsalt": "crosstask",
}


def system_color(place: int) -> str:
    """Return the color of the system with index `place`; after six systems, the colors are used again."""
    return COLORS[place % len(COLORS)]


def system_marker(place: int) -> str:
    """Return the marker of the system with index `place`; systems of the same color have different ones."""
    return MARKERS[(place + place // len(COLORS)) % len(MARKERS)]


def repeats_a_color(place: int) -> bool:
    """Return whether the system with index `place` has the color of an earlier one, and is drawn hollow or dashed."""
    return place >= len(COLORS)


def legend_columns(names: Sequence[str], width: float) -> int:
    """Return how many names fit beside each other in a legend.

    Args:
        names: The names.
        width: Width of the legend in inches.
    """
    longest = max(map(len, names), default=1) * 0.075 + 0.45
    return max(1, min(len(names), int(width / longest)))


def lightened(color: str) -> tuple[float, float, float]:
    """Return a color mixed with white, on which intervals stay readable."""
    from matplotlib.colors import to_rgb

    red, green, blue = (0.65 * part + 0.35 for part in to_rgb(color))
    return red, green, blue


@contextmanager
def figure_style(**changes: Any) -> Iterator[None]:
    """Context in which matplotlib draws in the common style of figures, without warnings about missing characters.

    Args:
        **changes: Settings of matplotlib that override the style.
    """
    import matplotlib

    settings: dict[Any, Any] = {**STYLE, **changes}  # matplotlib types each of these names
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that it draws in the common style of figures (fonts, colors, grid)."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with figure_style():
            return draw(*args, **kwargs)

    return drawn


def new_figure(height: float, *, margins: tuple[float, float, float, float]) -> "tuple[Figure, Axes]":
    """Return a figure of the common width, and its axes.

    Args:
        height: Height of the figure in inches.
        margins: Inches on the left, right, bottom and top of the axes.
    """
    from matplotlib.figure import Figure

    left, right, bottom, top = margins
    figure = Figure(figsize=(WIDTH, height))
    sides = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (bottom + top) / height)
    return figure, figure.add_axes(sides)


def horizontal_legend(figure: "Figure", handles: Any, *, columns: int, left: float = 0.1) -> None:
    """Add a legend in the figure's upper left corner, outside of the axes; `left` is in inches."""
    place = (left / WIDTH, 1 - 0.02 / figure.get_size_inches()[1])
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=columns, borderaxespad=0.0)


def svg_element(figure: "Figure", title: str) -> str:
    """Return the figure as an SVG element. Equal figures give equal bytes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    # Identifiers of clip paths and markers are hashes; the title keeps those of a page's figures apart.
    with figure_style(**{"svg.hashsalt": title}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return clean_svg(text.getvalue(), title)


def write_figure(figure: "Figure", path: Path, title: str) -> None:
    """Write a figure as SVG, PDF or PNG, by the path's suffix.

    Raises:
        ValueError: The suffix is another.
    """
    kind = figure_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "svg":
        write_whole(path, svg_element(figure, title))
        return
    dots = min(160, LONGEST_SIDE / max(figure.get_size_inches()))
    metadata = {"Title": visible(title)} | ({"CreationDate": None} if kind == "pdf" else {})
    with figure_style(), whole_file(path, "wb") as file:
        figure.savefig(file, format=kind, dpi=dots, metadata=metadata)


def figure_format(path: Path) -> str:
    """Return the format of a figure from its file name: svg, pdf or png.

    Raises:
        ValueError: The suffix is another.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"a figure is written as {', '.join(f'.{name}' for name in FORMATS)}, got {path.name!r}")
    return kind


def write_figure_files(figure: "Figure", folder: Path, name: str, title: str, formats: Sequence[str] = FORMATS) -> None:
    """Write ``<name>.<format>`` into a folder for every format."""
    for kind in formats:
        write_figure(figure, folder / f"{name}.{kind}", title)
