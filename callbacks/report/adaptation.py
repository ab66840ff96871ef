"""The report of adapted tasks: for programs, for people, and the gain on each task as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...lightning_modules.scoring.selecting import Asked, by_size, to_json, write_choices
from ...lightning_modules.scoring.selection import (
    SCORER,
    Candidates,
    SelectionTable,
    calibrated_name,
    choices,
    mean_calibration_error,
    task_gains,
    vote_name,
    worth,
)
from .charts import COLORS, differences

SHOWN_WORST, SHOWN_EXAMPLES = 3, 3


def write_adaptation(
    folder: Path,
    table: SelectionTable,
    asked: Sequence[Asked],
    everything: Sequence[Candidates],
    *,
    about: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    sizes: Sequence[int],
    parameters: float | None = None,
) -> None:
    """Write ``report.json``, ``report.md``, ``advantages.svg`` and ``choices.jsonl``.

    Args:
        folder: Where.
        table: Of all examples.
        asked: The examples.
        everything: Their candidates.
        about: What else is known of each scorer, by its name; of the first one, ``costs`` by task.
        failed: Tasks that failed, with the reason.
        sizes: Also choose among so many nucleus samples alone.
        parameters: Of the language model, where that is known.
    """
    advantages = task_gains(everything, SCORER, table.best_single)
    found = to_json(table)
    found |= {
        "scorers": {
            name: {**own, "calibration_error": _calibration_errors(name, everything, about[name]), **about[name]}
            for name, own in found["scorers"].items()
        },
        "sizes": by_size(everything, sizes),
        "advantages": {name: gain._asdict() for name, gain in advantages.items()},
        "costs": about[SCORER]["costs"],
        "failed": failed,
        "generator": {"parameters": parameters},
    }
    (folder / "report.json").write_text(json.dumps(found, indent=1))
    rows = sorted(advantages.items(), key=lambda item: -item[1].mean)
    chart = differences(rows, f"ROUGE-L of the scorer's choice over {table.best_single}, by task", COLORS[0])
    (folder / "advantages.svg").write_text(chart, encoding="utf-8")
    write_choices(folder / "choices.jsonl", asked, everything)
    lines = [*_table(table, found), *_tasks(found), *_worst(found, asked, everything)]
    for name, reason in failed.items():
        lines += ["", f"**{name} failed**: {reason}"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _calibration_errors(
    name: str, everything: Sequence[Candidates], about: Mapping[str, Any]
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
        f"intervals over resampled instances. Best single decoding: {table.best_single}.",
        "",
        "| chosen by | ROUGE-L | 95% | over the best single decoding |",
        "|---|---|---|---|",
    ]
    for name, row in found["methods"].items():
        lines.append(f"| {name} | {100 * row['mean']:.2f} | {_interval(row)} | {_signed(found['gains'][name])} |")
    lines += ["", "| scorer | recovered of (oracle - best single decoding) | Spearman of score and ROUGE-L | "]
    lines[-1] += "calibration error of its scores | of calibrated ones |"
    lines += ["|---|---|---|---|---|"]
    for name, own in found["scorers"].items():
        share = "nothing, as there is no gap" if own["recovered"] is None else f"{own['recovered']:.1%}"
        numbers = own["spearman"], *own["calibration_error"].values()
        shown = " | ".join("–" if number is None else f"{number:.3f}" for number in numbers)
        lines.append(f"| {name} | {share} | {shown} |")
    return lines


def _tasks(found: Mapping[str, Any]) -> list[str]:
    lines = ["", "![Gain of the scorer's choice on each task](advantages.svg)", ""]
    lines += ["## Tasks, the worst last", "", "| task | scorer over the best single decoding |", "|---|---|"]
    return lines + [f"| {name} | {_signed(gain)} |" for name, gain in _by_gain(found)]


def _worst(found: Mapping[str, Any], asked: Sequence[Asked], everything: Sequence[Candidates]) -> list[str]:
    """Examples of the tasks with the smallest gain, those first where most is lost (the paper's Table 4)."""
    lines = []
    for name, _ in _by_gain(found)[::-1][:SHOWN_WORST]:
        lines += ["", f"### {name}", ""]
        own = [(a, c) for a, c in zip(asked, everything, strict=True) if c.task == name]
        own.sort(key=lambda pair: worth(pair[1])[SCORER] - worth(pair[1])["oracle"])
        for each, candidates in own[:SHOWN_EXAMPLES]:
            place = choices(candidates)[SCORER]
            best = candidates.samples[int(candidates.quality.argmax())].response
            lines += [
                f"- prompt: `{each.prompt.source[-300:]!r}`",
                f"  - reference: `{each.prompt.example.targets[0][:200]!r}`",
                f"  - scorer's choice: `{candidates.samples[place].response[:200]!r}`",
                f"  - best candidate: `{best[:200]!r}`",
            ]
    return lines


def _by_gain(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(found["advantages"].items(), key=lambda item: -item[1]["mean"])


def _interval(row: Mapping[str, float]) -> str:
    return f"[{100 * row['low']:.2f}, {100 * row['high']:.2f}]"


def _signed(gain: Mapping[str, float]) -> str:
    return f"{100 * gain['mean']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
