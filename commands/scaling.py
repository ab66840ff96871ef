"""``crosstask scaling``: plot score against model size from the reports of several models."""

from collections.abc import Sequence
from pathlib import Path

from ..callbacks.report.charts import over_sizes
from ..callbacks.report.model_sizes import Point, default_rows, read_points, read_report
from ..datamodules.messages import some


def plot_scaling(reports: list[str], output: str = "scaling.svg", rows: Sequence[str] = ()) -> None:
    """Draw scores against the logarithm of a model's size. Rows of the same name are one line through all reports.

    Args:
        reports: Folders of ``crosstask adapt``, whose size is that of the language model that answers, and files of
            ``crosstask classify``, each of whose models has its own size.
        output: The drawing, SVG.
        rows: Rows of the tables; by default all models of classify, and of adapt the scorers, "self-score, sum" and
            "best single decoding".
    """
    if len({Path(report).expanduser().absolute() for report in reports}) < len(reports):
        raise ValueError(f"a report is given twice: {', '.join(map(str, reports))}")
    kinds = {"accuracy" if "models" in read_report(report) else "ROUGE-L" for report in reports}
    if len(kinds) > 1:
        raise ValueError("reports of adapt are of ROUGE-L and those of classify of accuracy: draw them apart")
    lines: dict[str, list[Point]] = {}
    known: set[str] = set()
    for report in reports:
        points = read_points(report)
        known |= set(points)
        wanted = list(rows) or default_rows(report)
        for name in wanted:
            if name in points:
                lines.setdefault(name, []).append(points[name])
    if missing := [name for name in rows if name not in lines]:
        raise ValueError(f"no report has a row {missing[0]!r}; there are {some(sorted(known))}")
    drawn = {name: sorted(own) for name, own in lines.items()}
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(over_sizes(drawn, f"{kinds.pop()} in percent against parameters"), encoding="utf-8")
    for name, own in drawn.items():
        print(f"{name}: {', '.join(f'{each.parameters:.3g} {100 * each.score:.1f}' for each in own)}")
    print(path)
