"""ROUGE-L of a published model on real tasks, by the number of training tasks (OPT-IML's Figure 2 in small).

    python experiments/number_of_tasks.py runs/claims/number_of_tasks

FOLDER is the output of the sweep ``experiments/claims/number_of_tasks.yaml``. Prints a Markdown table of the levels of
generalization, and draws it as ``FOLDER/number_of_tasks.svg``. Every arm is scored on the same instances. Intervals
resample tasks, and instances within them; differences are paired.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from claims_results import CLAIMS
from matplotlib.figure import Figure
from tune_on_real_tasks import LEVELS, Answered, interval, task_interval

from crosstask.callbacks.report.figure_style import COLORS, new_figure, styled, system_marker, write_figure
from crosstask.callbacks.report.predictions import find_predictions, read_predictions
from crosstask.commands.shared.sweep_declarations import folder_name, read_sweep

SWEEP = CLAIMS / "number_of_tasks.yaml"


def answered(runs: dict[str, Path]) -> list[Answered]:
    """Return the instances that all runs have answered, each with the score of every run by its name."""
    scores: dict[str, dict[tuple[str, str, int], float]] = {}
    levels: dict[str, str] = {}
    for name, run in runs.items():
        instances = [prediction.instance for prediction in read_predictions(find_predictions(run, "test"))]
        scores[name] = {(row.task, row.id, row.shots): row.score for row in instances}
        levels |= {row.task: row.level.replace("_", " ") for row in instances}
    shared = [key for key in next(iter(scores.values())) if all(key in of for of in scores.values())]
    return [
        Answered(levels[task], shots, task, {name: of[task, example, shots] for name, of in scores.items()})
        for task, example, shots in shared
    ]


def table(rows: Sequence[Answered]) -> str:
    """Return a Markdown table of ROUGE-L by level and number of shots, with the last arm minus each other one."""
    *others, last = rows[0].scores
    heads = ["level", "shots", "tasks", "instances", *others, last, *(f"{last} - {other}" for other in others)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for shots, level in product(sorted({row.shots for row in rows}), (*LEVELS, "unseen")):
        group = [row for row in rows if row.shots == shots and _belongs(row, level)]
        if not group:
            continue
        cells = [level, str(shots), str(len({row.task for row in group})), str(len(group))]
        cells += [interval(group, lambda row, arm=arm: row.scores[arm]) for arm in (*others, last)]
        cells += [interval(group, lambda row, arm=arm: row.scores[last] - row.scores[arm]) for arm in others]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _belongs(row: Answered, level: str) -> bool:
    return row.level == level or (level == "unseen" and row.level != LEVELS[0])


@styled
def curves(rows: Sequence[Answered]) -> Figure:
    """Return a figure of ROUGE-L over the number of training tasks, a line for each level, zero-shot."""
    arms = list(rows[0].scores)
    figure, axes = new_figure(3.4, margins=(0.6, 0.2, 0.5, 0.15))
    for place, level in enumerate(LEVELS):
        group = [row for row in rows if row.shots == 0 and row.level == level]
        points = [task_interval(group, lambda row, arm=arm: row.scores[arm]) for arm in arms]
        means = [mean for mean, _, _ in points]
        lengths = [[mean - low for mean, low, _ in points], [high - mean for mean, _, high in points]]
        shifted = [x + 0.04 * (place - 1) for x in range(len(arms))]  # intervals beside each other, not on top
        axes.errorbar(shifted, means, yerr=lengths, color=COLORS[place], marker=system_marker(place), label=level)
    axes.set_xticks(range(len(arms)), arms)
    axes.set_xlabel("training tasks")
    axes.set_ylabel("ROUGE-L (%), 0-shot")
    axes.grid(axis="y")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend above the intervals
    axes.legend(loc="upper center", ncols=len(LEVELS))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arms = {arm: arguments.folder / folder_name(arm) / f"seed-{arguments.seed}" for arm in read_sweep(str(SWEEP)).arms}
    rows = answered(arms)
    print(table(rows))
    title = "ROUGE-L by the number of training tasks"
    write_figure(curves(rows), arguments.folder / "number_of_tasks.svg", title)


if __name__ == "__main__":
    main()
