"""Scores and model sizes from reports of `adapt` and `classify`, as points of scaling curves."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...datamodules.data_files import read_json
from ...datamodules.messages import expanded, some
from ...datamodules.record_fields import number_field

BEST_SINGLE = "best single decoding"
"""The row of a report's best decoding, which differs from model to model."""

LIKELIHOOD = "self-score, sum"


class ModelScore(NamedTuple):
    """A score in [0, 1] with its 95% interval, and the number of parameters of its model.

    There is no interval if `low` equals `high`.
    """

    parameters: float
    score: float
    low: float
    high: float


def read_model_scores(report: str, task: str | None = None) -> dict[str, ModelScore]:
    """Return score and model size of every method or model in a report of `crosstask adapt` or `classify`.

    In a report of `adapt`, keys are its methods and the best single decoding, and the size is always that of the
    language model that generated the samples, without the scorer. One task has no interval there: its low and high
    ends are its score. In a report of `classify`, every model has its own size.

    Args:
        report: Folder of the report, or its ``report.json``.
        task: Task whose scores are returned; None for means over all tasks.

    Raises:
        ValueError: There is no such report, or it lacks the number of parameters or the task.
    """
    content = read_report(report)
    if task is not None and task not in read_tasks(report):
        raise ValueError(f"{report} has no task {task!r}, only {some(read_tasks(report))}")
    try:
        return _checked_scores(report, content, task)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{report} is no report of this version of crosstask: {error!r}") from error


def _checked_scores(report: str, content: Mapping[str, Any], task: str | None) -> dict[str, ModelScore]:
    def score(row: Mapping[str, Any], *names: str) -> list[float]:
        try:
            return [number_field(row, name, 0, 1) for name in names]
        except ValueError as error:
            raise ValueError(f"{report}: {error}") from error

    if "models" in content:
        rows = {
            name: model["mean"] if task is None else model["tasks"][task] for name, model in content["models"].items()
        }
        return {
            name: ModelScore(_parameters(report, content["models"][name]), *score(row, "template_mean", "low", "high"))
            for name, row in rows.items()
        }
    size = content["generator"].get("parameters")
    if size is None:
        raise ValueError(
            f"{report} lacks the number of parameters of the language model that generated the samples: run `crosstask "
            "adapt` again with generator_parameters (finished tasks are not trained again)"
        )
    size = _parameters(report, content["generator"])
    if task is not None:
        of_task = {**content["tasks"][task], BEST_SINGLE: content["tasks"][task][content["best_single"]]}
        return {name: ModelScore(size, *score(of_task, name) * 3) for name in of_task}
    rows = {**content["methods"], BEST_SINGLE: content["methods"][content["best_single"]]}
    return {name: ModelScore(size, *score(row, "mean", "low", "high")) for name, row in rows.items()}


def _parameters(report: str, model: Mapping[str, Any]) -> float:
    """Return the number of parameters of a model; it is at least 1, since a logarithmic axis has no 0."""
    try:
        return number_field(model, "parameters", 1, 1e18)
    except ValueError as error:
        raise ValueError(f"{report}: {error}") from error


def read_tasks(report: str) -> list[str]:
    """Return the names of the tasks in a report of `crosstask adapt` or `classify`."""
    content = read_report(report)
    return list(content["chance"]["tasks"] if "models" in content else content["tasks"])


def default_rows(report: str) -> list[str]:
    """Return the methods or models of a report that `crosstask scaling` draws by default."""
    content = read_report(report)
    return list(content["models"]) if "models" in content else [*content["scorers"], LIKELIHOOD, BEST_SINGLE]


def read_report(report: str) -> Mapping[str, Any]:
    """Return the content of a report of `adapt` or `classify`, by its folder or file.

    Raises:
        ValueError: It is neither.
    """
    path = expanded(report)
    path = path / "report.json" if path.is_dir() else path
    try:
        content: dict[str, Any] = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no report of `crosstask adapt` or `crosstask classify`, or of their folders: {error}"
        ) from error
    if not isinstance(content, dict) or not {"models", "methods"} & set(content):
        raise ValueError(f"{path} is no report of `crosstask adapt` or `crosstask classify`")
    return content
