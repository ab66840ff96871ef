"""Scores and model sizes from reports of `adapt` and `classify`, as points of a scaling curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...datamodules.data_files import read_json
from ...datamodules.record_fields import number_field

BEST_SINGLE = "best single decoding"
"""The row of a report's best decoding, which differs from model to model."""

LIKELIHOOD = "self-score, sum"


class ModelScore(NamedTuple):
    """A score in [0, 1] with its 95% interval (none where `low` equals `high`), and its model's parameter count."""

    parameters: float
    score: float
    low: float
    high: float


def read_model_scores(report: str) -> dict[str, ModelScore]:
    """The score and the model size of every row of a report.

    Raises:
        ValueError: There is no such report, or it lacks the number of parameters.
    """
    content = read_report(report)
    try:
        return _checked_scores(report, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{report} is no report of this version of crosstask: {error!r}") from error


def _checked_scores(report: str, content: Mapping[str, Any]) -> dict[str, ModelScore]:
    def score(row: Mapping[str, Any], *names: str) -> list[float]:
        try:
            return [number_field(row, name, 0, 1) for name in names]
        except ValueError as error:
            raise ValueError(f"{report}: {error}") from error

    if "models" in content:
        return {
            name: ModelScore(_parameters(report, model), *score(model["mean"], "template_mean") * 3)
            for name, model in content["models"].items()
        }
    size = content["generator"].get("parameters")
    if size is None:
        raise ValueError(
            f"{report} lacks the number of parameters of the language model that generated the samples: run `crosstask "
            "adapt` again with generator_parameters (finished tasks are not trained again)"
        )
    rows = {**content["methods"], BEST_SINGLE: content["methods"][content["best_single"]]}
    size = _parameters(report, content["generator"])
    return {name: ModelScore(size, *score(row, "mean", "low", "high")) for name, row in rows.items()}


def _parameters(report: str, model: Mapping[str, Any]) -> float:
    """The number of parameters of a model: a logarithmic axis has no 0."""
    try:
        return number_field(model, "parameters", 1, 1e18)
    except ValueError as error:
        raise ValueError(f"{report}: {error}") from error


def default_rows(report: str) -> list[str]:
    """The rows of a report that are drawn if none is chosen."""
    content = read_report(report)
    return list(content["models"]) if "models" in content else [*content["scorers"], LIKELIHOOD, BEST_SINGLE]


def read_report(report: str) -> Mapping[str, Any]:
    """The content of a report of `adapt` (its folder) or of `classify` (its file).

    Raises:
        ValueError: It is neither.
    """
    path = Path(report).expanduser()
    path = path / "report.json" if path.is_dir() else path
    try:
        content: dict[str, Any] = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no report of adapt (its folder) or classify (its file): {error}") from error
    if not isinstance(content, dict) or not {"models", "methods"} & set(content):
        raise ValueError(f"{path} is no report of `crosstask adapt` or `crosstask classify`")
    return content
