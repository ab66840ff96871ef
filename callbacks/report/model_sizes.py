"""``crosstask scaling``: score against size, from the reports of several models (Cappy's Figures 1, 2 and 5)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

BEST_SINGLE = "best single decoding"
"""The row of a report's best decoding, which is another one for every model."""

LIKELIHOOD = "self-score, sum"


class Point(NamedTuple):
    """A score in [0, 1] with its 95% interval (none where `low` is `high`), of a model of so many parameters."""

    parameters: float
    score: float
    low: float
    high: float


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
    """What is drawn of a report where nothing is sampled for."""
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
