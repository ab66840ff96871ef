"""``crosstask scaling``: score against size, from the reports of several models (Cappy's Figures 1, 2 and 5)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...datamodules.messages import some
from .charts import over_sizes

BEST_SINGLE = "best single decoding"
"""The row of a report's best decoding, which is another one for every model."""

LIKELIHOOD = "self-score, sum"


class Point(NamedTuple):
    """A score in [0, 1] with its 95% interval (none where `low` is `high`), of a model of so many parameters."""

    parameters: float
    score: float
    low: float
    high: float


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


def read_points(report: str) -> dict[str, Point]:
    """The score and the size of every row of a report.

    Raises:
        ValueError: There is no such report, or it does not say how large its model is.
    """
    found = read_report(report)
    if "models" in found:
        return {
            name: Point(float(each["parameters"]), *[float(each["mean"]["template_mean"])] * 3)
            for name, each in found["models"].items()
        }
    size = found.get("generator", {}).get("parameters")
    if size is None:
        raise ValueError(
            f"{report} does not say how large the language model is that answered: run `crosstask adapt` again with "
            "generator_parameters (what is done is not trained again)"
        )
    rows = {**found["methods"], BEST_SINGLE: found["methods"][found["best_single"]]}
    return {name: Point(float(size), row["mean"], row["low"], row["high"]) for name, row in rows.items()}


def default_rows(report: str) -> list[str]:
    """What is drawn of a report where nothing is asked for."""
    found = read_report(report)
    return list(found["models"]) if "models" in found else [*found["scorers"], LIKELIHOOD, BEST_SINGLE]


def read_report(report: str) -> Mapping[str, Any]:
    """A report of ``adapt`` (its folder) or of ``classify`` (its file).

    Raises:
        ValueError: It is neither.
    """
    path = Path(report).expanduser()
    path = path / "report.json" if path.is_dir() else path
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no report of adapt (its folder) or classify (its file): {error}") from error
    if not isinstance(found, dict) or not {"models", "methods"} & set(found):
        raise ValueError(f"{path} is no report of `crosstask adapt` or `crosstask classify`")
    return found
