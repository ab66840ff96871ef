"""Several runs of ``crosstask adapt`` that differ in the scorer's seed, as one table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...lightning_modules.evaluation.significance import seed_interval


def over_seeds(reports: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds with their 95% intervals, by method and by task.

    What no scorer decides is the same with every seed; its interval is over instances. Gains over the best single
    decoding are paired by instance, one for each seed. Rows that only some runs have, as ablations, are left out.

    Args:
        reports: Contents of ``report.json`` of each run, of the same tasks and responses.

    Raises:
        ValueError: A run has other tasks or other responses than the first.
    """
    first = reports[0]
    _require_equal_settings(reports)
    lines = [f"{'chosen by':32}{'ROUGE-L':>8}  95%, over {len(reports)} seeds or over instances"]
    for name in _common(reports, "methods"):
        row = first["methods"][name]
        values = [100 * report["methods"][name]["mean"] for report in reports]
        low, high, over = 100 * row["low"], 100 * row["high"], "instances"
        if len(set(values)) > 1:
            found = seed_interval(values, first["instances"])
            low, high, over = found.low, found.high, "seeds"
        lines.append(f"{name:32}{np.mean(values):8.1f}  [{low:.1f}, {high:.1f}] {over}")
    best, scorers = first["best_single"], _common(reports, "scorers")
    lines += ["", f"{'task':44}{best:>10}{''.join(f'{name:>16}' for name in scorers)}{'oracle':>8}"]
    for task, scores in first["tasks"].items():
        means = [np.mean([report["tasks"][task][name] for report in reports]) for name in scorers]
        shown = "".join(f"{100 * mean:16.1f}" for mean in means)
        lines.append(f"{task[:43]:44}{100 * scores[best]:10.1f}{shown}{100 * scores['oracle']:8.1f}")
    for name in scorers:
        own = [report["scorers"][name] for report in reports]
        gains = [report["gains"][name] for report in reports]
        lines += ["", f"{name} over {best}, each seed: {', '.join(map(_signed, gains))}"]
        lines.append(f"  recovered of (oracle - {best}): {', '.join(_percent(each['recovered']) for each in own)}")
        lines.append(f"  Spearman of score and ROUGE-L: {', '.join(_number(each['spearman']) for each in own)}")
    sizes = first["sizes"]
    lines += ["", f"{'of so many responses':32}{''.join(f'{size:>8}' for size in sizes)}"]
    for name in _common(reports, "methods"):
        means = [[report["sizes"][size].get(name, np.nan) for report in reports] for size in sizes]
        lines.append(f"{name:32}{''.join(_cell(float(np.mean(own))) for own in means)}")
    return "\n".join(lines)


def _common(reports: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    return [name for name in reports[0][kind] if all(name in report[kind] for report in reports)]


def _require_equal_settings(reports: Sequence[Mapping[str, Any]]) -> None:
    oracles = [{task: scores["oracle"] for task, scores in report["tasks"].items()} for report in reports]
    for place, found in enumerate(oracles):
        if differ := sorted(set(found.items()) ^ set(oracles[0].items())):
            raise ValueError(
                f"run {place} has other tasks or other responses than run 0, e.g. of {differ[0][0]}: "
                "a mean over seeds needs the same of each"
            )


def _signed(gain: Mapping[str, float]) -> str:
    return f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def _percent(share: float | None) -> str:
    return "no gap" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell(mean: float) -> str:
    return f"{'':8}" if np.isnan(mean) else f"{100 * mean:8.1f}"
