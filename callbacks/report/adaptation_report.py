"""The report of ``crosstask adapt``: JSON, Markdown, and figures of the gain on each task."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datamodules.atomic_files import write_whole
from ...datamodules.visible_text import escape_markdown, markdown_code
from ...lightning_modules.evaluation.significance import Difference
from ...lightning_modules.scoring.sampled_responses import SampledResponses
from ...lightning_modules.scoring.selection import SCORER, ScoredResponses, calibrated_name, choices, vote_name
from ...lightning_modules.scoring.selection_scores import (
    SelectionTable,
    mean_calibration_error,
    quality_of_choices,
    task_gains,
)
from .figure_style import COLORS, write_figure_files
from .model_sizes import BEST_SINGLE, LIKELIHOOD
from .score_figures import difference_intervals
from .selection_table import table_remarks, to_json, untested_remarks, write_choices

SELF_SCORING = "self-scoring"
"""Self-scoring by the summed log-likelihood, with which the paper compares."""

SHOWN_WORST, SHOWN_EXAMPLES = 3, 3


def write_adaptation(
    folder: Path,
    table: SelectionTable,
    sampled: Sequence[SampledResponses],
    everything: Sequence[ScoredResponses],
    *,
    about: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    sizes: Mapping[str, Mapping[str, float]],
    untested: int = 0,
    parameters: float | None = None,
) -> None:
    """Write the report of `crosstask adapt`: scores of all methods, choices for each example, and figures of the gains.

    The files are ``report.json``, ``report.md``, ``choices.jsonl``, and ``advantages_*`` as SVG, PDF and PNG.

    Args:
        folder: Output folder.
        table: Quality of each method's choices.
        sampled: The test examples with their responses.
        everything: The same examples in the same order, their responses with scores.
        about: Settings and costs of each scorer, by its name.
        failed: Reason of the failure, by task.
        sizes: Means of each method, by the number of responses.
        untested: Number of sampled test instances that were not tested.
        parameters: Number of parameters of the language model; None if unknown.
    """
    gains = {base: task_gains(everything, SCORER, row) for base, row in _bases(table).items()}
    report = to_json(table) | {
        "sizes": sizes,
        "advantages": {base: {name: gain._asdict() for name, gain in of.items()} for base, of in gains.items()},
        "costs": about[SCORER]["costs"],
        "hours": {name: sum(cost["seconds"] for cost in own["costs"].values()) / 3600 for name, own in about.items()},
        "failed": failed,
        "untested": untested,
        "generator": {"parameters": parameters},
    }
    for name, scores in report["scorers"].items():
        scores |= {"calibration_error": _calibration_errors(name, everything, about[name]), **about[name]}
    write_whole(folder / "report.json", json.dumps(report, indent=1))
    for base, row in _bases(table).items():
        _write_advantages(folder, base, gains[base], row)
    write_choices(folder / "choices.jsonl", sampled, everything)
    lines = [*_methods(table, report), *_scorers(report), *_costs(report), *_tasks(table, report)]
    lines += _worst(report, sampled, everything)
    for name, reason in failed.items():
        lines += ["", f"**{escape_markdown(name)} failed**: {escape_markdown(reason)}"]
    write_whole(folder / "report.md", "\n".join(lines) + "\n")


def _bases(table: SelectionTable) -> dict[str, str]:
    """Return the table rows that the scorer is compared with on each task; the first is that of Cappy's Figure 6."""
    known = LIKELIHOOD in table.methods  # samples of other programs may have no likelihoods
    return ({SELF_SCORING: LIKELIHOOD} if known else {}) | {BEST_SINGLE: table.best_single}


def figure_name(base: str) -> str:
    """Return the file name, without suffix, of the figure of the scorer's gains over another method.

    >>> figure_name("best single decoding")
    'advantages_over_best_single_decoding'
    """
    return f"advantages_over_{base.replace(' ', '_').replace('-', '_')}"


def _write_advantages(folder: Path, base: str, advantages: Mapping[str, Difference], row: str) -> None:
    """Draw the gain of the scorer's choice on each task, the largest first (Cappy's Figure 6)."""
    rows = sorted(advantages.items(), key=lambda item: -item[1].mean)
    label = f"ROUGE-L, scorer's choice minus {row}"
    figure = difference_intervals(rows, COLORS[0], label)
    write_figure_files(figure, folder, figure_name(base), f"{label}, by task")


def _calibration_errors(
    name: str, everything: Sequence[ScoredResponses], about: Mapping[str, Any]
) -> dict[str, float | None]:
    """Return the calibration errors of scores that are a regression of correctness, and of calibrated scores."""
    regression = about["training"]["loss"] == "regression"
    votes = {"scores": vote_name(name) if regression else "", "calibrated": calibrated_name(name)}
    return {
        kind: mean_calibration_error(everything, own) if all(own in each.votes for each in everything) else None
        for kind, own in votes.items()
    }


def _methods(table: SelectionTable, report: Mapping[str, Any]) -> list[str]:
    """The mean of each method, and its gain over the best single decoding."""
    sizes, all_tasks = report["sizes"], len(table.names) + len(report["failed"])
    tasks = f"{len(table.names)} of {all_tasks}" if report["failed"] else str(all_tasks)
    lines = [
        "# Adaptation through a scorer",
        "",
        f"{table.instances} test instances of {tasks} tasks; ROUGE-L in percent, mean over these tasks, 95% "
        "intervals over resampled instances, too narrow for tasks of fewer than about twenty. Best single decoding on "
        f"these instances: {escape_markdown(table.best_single)}. Rows with scored or calibrated weight responses by "
        f"the scorer.{' '.join(['', *untested_remarks(report['untested'], table.instances)])}",
        "",
        f"| chosen by | ROUGE-L | 95% | over the best single decoding | {' | '.join(f'of {size}' for size in sizes)} |",
        "|---|---|---|---|" + "---|" * len(sizes),
    ]
    for name, row in report["methods"].items():
        fewer = [f"{100 * means[name]:.2f}" if name in means else "" for means in sizes.values()]
        cells = [
            escape_markdown(name),
            f"{100 * row['mean']:.2f}",
            _interval(row),
            _signed(report["gains"][name]),
            *fewer,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, *(line for remark in table_remarks(table) for line in ("", escape_markdown(remark)))]


def _scorers(report: Mapping[str, Any]) -> list[str]:
    """For each scorer, its share of the gap to the oracle, its rank correlation and its calibration errors."""
    header = "| scorer | recovered of (oracle - best single decoding) | Spearman of score and ROUGE-L | "
    lines = ["", f"{header}calibration error of its scores | of calibrated ones |", "|---|---|---|---|---|"]
    for name, scores in report["scorers"].items():
        share = "nothing, as there is no gap" if scores["recovered"] is None else f"{scores['recovered']:.1%}"
        numbers = scores["spearman"], *scores["calibration_error"].values()
        cells = " | ".join("–" if number is None else f"{number:.3f}" for number in numbers)
        lines.append(f"| {escape_markdown(name)} | {share} | {cells} |")
    return lines


def _costs(report: Mapping[str, Any]) -> list[str]:
    """The costs of each scorer: sums over tasks, and the maximum of memory and storage."""
    lines = ["", "## Costs", ""]
    lines += [
        "| scorer | tasks | seconds of training | MiB of weights a task | peak memory, MiB | pairs | truncated pairs | "
        "truncated when choosing |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, own in report["scorers"].items():
        costs = list(own["costs"].values())
        sums = ("seconds", "pairs", "cut", "selection_cut", "selection_pairs")
        seconds, pairs, cut, chosen_cut, chosen = (sum(cost[key] for cost in costs) for key in sums)
        memory, storage = (max(cost[key] for cost in costs) for key in ("memory", "storage"))
        numbers = (
            f"{len(costs)} | {seconds:.0f} | {storage:.1f} | {memory:.0f} | {pairs} | {cut} | {chosen_cut} of {chosen}"
        )
        lines.append(f"| {escape_markdown(name)} | {numbers} |")
    return [*lines, *_limits(report)]


def _limits(report: Mapping[str, Any]) -> list[str]:
    """Sentences on what a scorer could not learn from or tell apart, by scorer and reason."""
    reasons = {
        "unanswered": "have no response",
        "option_examples": "have options, and the responses to them are not trained on (`training.option_samples`)",
        "unread": "have references that ROUGE-L cannot read: right responses may have label 0 (`--rouge unicode`)",
    }
    lines = []
    for name, own in report["scorers"].items():
        for key, text in reasons.items():
            if count := sum(cost[key] for cost in own["costs"].values()):
                lines += ["", f"{escape_markdown(name)}: {count} training instances {text}."]
        if equal := sum(cost["selection_equal"] for cost in own["costs"].values()):
            text = "pairs to choose from differ from another one only in the part that was cut, and have its score"
            lines += ["", f"{escape_markdown(name)}: {equal} {text}."]
    return lines


def _tasks(table: SelectionTable, report: Mapping[str, Any]) -> list[str]:
    advantages, bases = report["advantages"], _bases(table)
    shown = [*bases.values(), *report["scorers"], "oracle"]
    lines = []
    for base in bases:
        lines += ["", f"![Gain of the scorer's choice over {base} on each task]({figure_name(base)}.svg)"]
    lines += [
        "",
        "Points are filled if their interval excludes 0.",
        "",
        f"## Tasks by gain over {next(iter(bases))}",
        "",
    ]
    columns = [*(f"scorer over {base}" for base in bases), *shown]
    lines += [f"| task | {' | '.join(map(escape_markdown, columns))} |", "|---|" + "---|" * len(columns)]
    for name in _by_gain(report):
        gains = [_signed(advantages[base][name]) for base in bases]
        means = [f"{100 * report['tasks'][name][method]:.1f}" for method in shown]
        lines.append(f"| {escape_markdown(name)} | {' | '.join([*gains, *means])} |")
    return lines


def _worst(
    report: Mapping[str, Any], sampled: Sequence[SampledResponses], everything: Sequence[ScoredResponses]
) -> list[str]:
    """Examples of the tasks with the smallest gain, the largest loss to the oracle first (Cappy's Table 4)."""
    lines = ["", f"## Tasks with the smallest gain over {next(iter(report['advantages']))}"]
    for name in _by_gain(report)[::-1][:SHOWN_WORST]:
        lines += ["", f"### {escape_markdown(name)}", ""]
        own = [(a, c) for a, c in zip(sampled, everything, strict=True) if c.task == name]
        own.sort(key=lambda pair: quality_of_choices(pair[1])[SCORER] - quality_of_choices(pair[1])["oracle"])
        for each, responses in own[:SHOWN_EXAMPLES]:
            place = choices(responses)[SCORER]
            best = responses.samples[int(responses.quality.argmax())].response
            lines += [
                f"- prompt: {markdown_code(repr(each.prompt.source[-300:]))}",
                f"  - reference: {markdown_code(repr(each.prompt.example.targets[0][:200]))}",
                f"  - scorer's choice: {markdown_code(repr(responses.samples[place].response[:200]))}",
                f"  - best response: {markdown_code(repr(best[:200]))}",
            ]
    return lines


def _by_gain(report: Mapping[str, Any]) -> list[str]:
    """Return the tasks in order of the gain over the first base, the largest first."""
    gains = next(iter(report["advantages"].values()))
    return sorted(gains, key=lambda name: -gains[name]["mean"])


def _interval(row: Mapping[str, float]) -> str:
    return f"[{100 * row['low']:.2f}, {100 * row['high']:.2f}]"


def _signed(gain: Mapping[str, float]) -> str:
    return f"{100 * gain['mean']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
