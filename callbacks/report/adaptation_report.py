"""The report of adapted tasks: for programs, for people, and the gain on each task as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...lightning_modules.evaluation.significance import Difference
from ...lightning_modules.scoring.sampled_responses import SampledResponses
from ...lightning_modules.scoring.selection import (
    SCORER,
    Responses,
    SelectionTable,
    calibrated_name,
    choices,
    mean_calibration_error,
    task_gains,
    vote_name,
    worth,
)
from .figure_style import COLORS, write_figure_files
from .score_figures import difference_intervals
from .selection_table import to_json, write_choices

SHOWN_WORST, SHOWN_EXAMPLES = 3, 3


def write_adaptation(
    folder: Path,
    table: SelectionTable,
    sampled: Sequence[SampledResponses],
    everything: Sequence[Responses],
    *,
    about: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    sizes: Mapping[str, Mapping[str, float]],
    parameters: float | None = None,
) -> None:
    """Write ``report.json``, ``report.md``, ``advantages.svg`` and ``choices.jsonl``.

    Args:
        folder: Where.
        table: Of all examples.
        sampled: The examples.
        everything: Their responses.
        about: What else is known of each scorer, by its name; of the first one, ``costs`` by task.
        failed: Tasks that failed, with the reason.
        sizes: Means of each method by the number of responses.
        parameters: Of the language model, where that is known.
    """
    advantages = task_gains(everything, SCORER, table.best_single)
    found = to_json(table)
    found |= {
        "scorers": {
            name: {**own, "calibration_error": _calibration_errors(name, everything, about[name]), **about[name]}
            for name, own in found["scorers"].items()
        },
        "sizes": sizes,
        "advantages": {name: gain._asdict() for name, gain in advantages.items()},
        "costs": about[SCORER]["costs"],
        "failed": failed,
        "generator": {"parameters": parameters},
    }
    (folder / "report.json").write_text(json.dumps(found, indent=1))
    _write_advantages(folder, advantages, table.best_single)
    write_choices(folder / "choices.jsonl", sampled, everything)
    lines = [*_table(table, found), *_costs(found), *_tasks(table, found), *_worst(found, sampled, everything)]
    for name, reason in failed.items():
        lines += ["", f"**{name} failed**: {reason}"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_advantages(folder: Path, advantages: Mapping[str, Difference], best_single: str) -> None:
    """Draw the advantage of the scorer's choice on each task, the largest first (Cappy's Figure 6)."""
    rows = sorted(advantages.items(), key=lambda item: -item[1].mean)
    label = f"ROUGE-L, scorer's choice minus {best_single}"
    figure = difference_intervals(rows, COLORS[0], label)
    write_figure_files(figure, folder, "advantages", f"{label}, by task")


def _calibration_errors(
    name: str, everything: Sequence[Responses], about: Mapping[str, Any]
) -> dict[str, float | None]:
    """Of the scores themselves, where they regress correctness, and of calibrated ones."""
    regression = about["training"]["loss"] == "regression"
    votes = {"scores": vote_name(name) if regression else "", "calibrated": calibrated_name(name)}
    return {
        kind: mean_calibration_error(everything, own) if all(own in each.votes for each in everything) else None
        for kind, own in votes.items()
    }


def _table(table: SelectionTable, found: Mapping[str, Any]) -> list[str]:
    lines = [
        "# Adaptation through a scorer",
        "",
        f"{table.instances} test instances of {len(table.names)} tasks; ROUGE-L in percent, mean over tasks, 95% "
        "intervals over resampled instances, too narrow where a task has fewer than some twenty. Best single decoding, "
        f"on these instances: {table.best_single}. Rows with scored or calibrated weigh responses by the scorer.",
        "",
        "| chosen by | ROUGE-L | 95% | over the best single decoding | "
        + " | ".join(f"of {size}" for size in found["sizes"])
        + " |",
        "|---|---|---|---|" + "---|" * len(found["sizes"]),
    ]
    for name, row in found["methods"].items():
        fewer = [f"{100 * own[name]:.2f}" if name in own else "" for own in found["sizes"].values()]
        cells = [name, f"{100 * row['mean']:.2f}", _interval(row), _signed(found["gains"][name]), *fewer]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| scorer | recovered of (oracle - best single decoding) | Spearman of score and ROUGE-L | "]
    lines[-1] += "calibration error of its scores | of calibrated ones |"
    lines += ["|---|---|---|---|---|"]
    for name, own in found["scorers"].items():
        share = "nothing, as there is no gap" if own["recovered"] is None else f"{own['recovered']:.1%}"
        numbers = own["spearman"], *own["calibration_error"].values()
        shown = " | ".join("–" if number is None else f"{number:.3f}" for number in numbers)
        lines.append(f"| {name} | {share} | {shown} |")
    return lines


def _costs(found: Mapping[str, Any]) -> list[str]:
    """What adapting took, a line for each scorer: sums over tasks, and the greatest memory."""
    lines = ["", "## Costs", ""]
    lines += ["| scorer | tasks | seconds of training | MiB of weights a task | greatest memory, MiB | pairs | cut |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, own in found["scorers"].items():
        costs = list(own["costs"].values())
        seconds, pairs, cut = (sum(cost[key] for cost in costs) for key in ("seconds", "pairs", "cut"))
        memory, storage = (max(cost[key] for cost in costs) for key in ("memory", "storage"))
        lines.append(f"| {name} | {len(costs)} | {seconds:.0f} | {storage:.1f} | {memory:.0f} | {pairs} | {cut} |")
    return lines


def _tasks(table: SelectionTable, found: Mapping[str, Any]) -> list[str]:
    shown = [table.best_single, *found["scorers"], "oracle"]
    lines = ["", "![Gain of the scorer's choice on each task](advantages.svg)", ""]
    lines += ["A filled place differs from 0.", "", "## Tasks, the worst last", ""]
    lines += [
        f"| task | scorer over the best single decoding | {' | '.join(shown)} |",
        "|---|---|" + "---|" * len(shown),
    ]
    for name, gain in _by_gain(found):
        means = [f"{100 * found['tasks'][name][method]:.1f}" for method in shown]
        lines.append(f"| {name} | {_signed(gain)} | {' | '.join(means)} |")
    return lines


def _worst(found: Mapping[str, Any], sampled: Sequence[SampledResponses], everything: Sequence[Responses]) -> list[str]:
    """Examples of the tasks with the smallest gain, those first where most is lost (the paper's Table 4)."""
    lines = []
    for name, _ in _by_gain(found)[::-1][:SHOWN_WORST]:
        lines += ["", f"### {name}", ""]
        own = [(a, c) for a, c in zip(sampled, everything, strict=True) if c.task == name]
        own.sort(key=lambda pair: worth(pair[1])[SCORER] - worth(pair[1])["oracle"])
        for each, responses in own[:SHOWN_EXAMPLES]:
            place = choices(responses)[SCORER]
            best = responses.samples[int(responses.quality.argmax())].response
            lines += [
                f"- prompt: `{each.prompt.source[-300:]!r}`",
                f"  - reference: `{each.prompt.example.targets[0][:200]!r}`",
                f"  - scorer's choice: `{responses.samples[place].response[:200]!r}`",
                f"  - best response: `{best[:200]!r}`",
            ]
    return lines


def _by_gain(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(found["advantages"].items(), key=lambda item: -item[1]["mean"])


def _interval(row: Mapping[str, float]) -> str:
    return f"[{100 * row['low']:.2f}, {100 * row['high']:.2f}]"


def _signed(gain: Mapping[str, float]) -> str:
    return f"{100 * gain['mean']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
