"""A table over runs of ``crosstask adapt`` that differ in the scorer's seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...lightning_modules.evaluation.significance import seed_interval


def seed_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of `crosstask adapt` runs with different seeds: means and 95% intervals, by method and by task.

    Methods without a scorer give equal scores with every seed; their intervals are over instances. Gains over the best
    single decoding are paired by instance, one for each seed. Rows that some runs lack, e.g. ablations, are left out.

    Args:
        reports: Content of ``report.json`` of each run, of the same tasks and responses.

    Raises:
        ValueError: A run has other tasks or other responses than the first.
    """
    _require_equal_settings(reports)
    parts = [_method_lines(reports), _task_lines(reports), *_scorer_lines(reports), _sample_count_lines(reports)]
    return "\n\n".join("\n".join(part) for part in parts)


def _method_lines(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The mean of each method, with an interval over seeds, or over instances if the seed does not matter."""
    first = reports[0]
    lines = [f"{'chosen by':32}{'ROUGE-L':>8}  95%, over {len(reports)} seeds or over instances"]
    for name in _common(reports, "methods"):
        row = first["methods"][name]
        values = [100 * report["methods"][name]["mean"] for report in reports]
        low, high, over = 100 * row["low"], 100 * row["high"], "instances"
        if len(set(values)) > 1:
            estimate = seed_interval(values, first["instances"])
            low, high, over = estimate.low, estimate.high, "seeds"
        lines.append(f"{name:32}{np.mean(values):8.1f}  [{low:.1f}, {high:.1f}] {over}")
    return lines


def _task_lines(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """On each task, the best single decoding, the mean of each scorer over seeds, and the oracle."""
    best, scorers = reports[0]["best_single"], _common(reports, "scorers")
    lines = [f"{'task':44}{best:>10}{''.join(f'{name:>16}' for name in scorers)}{'oracle':>8}"]
    for task, scores in reports[0]["tasks"].items():
        means = [np.mean([report["tasks"][task][name] for report in reports]) for name in scorers]
        columns = "".join(f"{100 * mean:16.1f}" for mean in means)
        lines.append(f"{task[:43]:44}{100 * scores[best]:10.1f}{columns}{100 * scores['oracle']:8.1f}")
    return lines


def _scorer_lines(reports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each scorer, its gain, its share of the gap to the oracle and its rank correlation with every seed."""
    best = reports[0]["best_single"]
    return [
        [
            f"{name} over {best}, each seed: {', '.join(_signed(report['gains'][name]) for report in reports)}",
            f"  recovered of (oracle - {best}): "
            + ", ".join(_percent(report["scorers"][name]["recovered"]) for report in reports),
            "  Spearman of score and ROUGE-L: "
            + ", ".join(_number(report["scorers"][name]["spearman"]) for report in reports),
        ]
        for name in _common(reports, "scorers")
    ]


def _sample_count_lines(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The mean of each method over seeds by the number of responses."""
    counts = reports[0]["sizes"]
    lines = [f"{'number of responses':32}{''.join(f'{count:>8}' for count in counts)}"]
    for name in _common(reports, "methods"):
        means = [np.mean([report["sizes"][count].get(name, np.nan) for report in reports]) for count in counts]
        lines.append(f"{name:32}{''.join(_cell(float(mean)) for mean in means)}")
    return lines


def _common(reports: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Return the names of the rows that all reports have."""
    return [name for name in reports[0][kind] if all(name in report[kind] for report in reports)]


def _require_equal_settings(reports: Sequence[Mapping[str, Any]]) -> None:
    oracles = [{task: scores["oracle"] for task, scores in report["tasks"].items()} for report in reports]
    for place, scores in enumerate(oracles):
        if differ := sorted(set(scores.items()) ^ set(oracles[0].items())):
            raise ValueError(
                f"run {place} has other tasks or other responses than run 0, e.g. of {differ[0][0]}: "
                "a mean over seeds needs equal ones"
            )


def _signed(gain: Mapping[str, float]) -> str:
    return f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def _percent(share: float | None) -> str:
    return "no gap" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell(mean: float) -> str:
    return f"{'':8}" if np.isnan(mean) else f"{100 * mean:8.1f}"
