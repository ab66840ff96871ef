"""Plot score against model size from the reports of several models.

It reads folders of `crosstask adapt` and files of `crosstask classify`. Rows of the same name are one line through all
reports.

Example:
    crosstask scaling runs/adapt_base runs/adapt_large --output scaling.svg
"""

from collections.abc import Sequence
from pathlib import Path

from ..callbacks.report.charts import over_sizes
from ..callbacks.report.model_sizes import Point, default_rows, read_points, read_report
from ..datamodules.messages import some
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Plot by the words of a command line."""
    run_function(plot_scaling, words)


def plot_scaling(reports: list[str], output: str = "scaling.svg", rows: Sequence[str] = ()) -> None:
    """Plot scores against the logarithm of a model's size. Rows of the same name are one line through all reports.

    Args:
        reports: Folders of ``crosstask adapt``, plotted at the size of the language model, and files of ``crosstask
            classify``, plotted at the size of each model.
        output: The plot, SVG.
        rows: Rows of the tables; by default all models of classify, and the scorers, "self-score, sum" and "best single
            decoding" of adapt.
    """
    if len({Path(report).expanduser().absolute() for report in reports}) < len(reports):
        raise ValueError(f"a report is listed twice: {', '.join(map(str, reports))}")
    kinds = {"accuracy" if "models" in read_report(report) else "ROUGE-L" for report in reports}
    if len(kinds) > 1:
        raise ValueError("reports of adapt hold ROUGE-L and those of classify accuracy: plot them separately")
    lines: dict[str, list[Point]] = {}
    available: set[str] = set()
    for report in reports:
        points = read_points(report)
        available |= set(points)
        wanted = list(rows) or default_rows(report)
        for name in wanted:
            if name in points:
                lines.setdefault(name, []).append(points[name])
    if missing := [name for name in rows if name not in lines]:
        raise ValueError(f"no report has a row {missing[0]!r}; there are {some(sorted(available))}")
    drawn = {name: sorted(line) for name, line in lines.items()}
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(over_sizes(drawn, f"{kinds.pop()} in percent against parameters"), encoding="utf-8")
    for name, line in drawn.items():
        print(f"{name}: {', '.join(f'{point.parameters:.3g} {100 * point.score:.1f}' for point in line)}")
    print(path)
