"""The report of ``crosstask classify``: accuracies with intervals, paired differences, missing tasks, and cut pairs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from ...datamodules.atomic_files import whole_file
from ...datamodules.visible_text import terminal_text
from ...lightning_modules.evaluation.significance import Resampling, difference, interval
from ...lightning_modules.scoring.classification import (
    Question,
    accuracies,
    accuracies_by_chance,
    best_options,
    chance_of_right_answers,
    right_answers,
    row_contributions,
)
from ...lightning_modules.scoring.score_files import ItemScores

Values = NDArray[np.float64]

CHANCE = "by chance"


@dataclass(frozen=True)
class Classified:
    """Results of `crosstask classify`: questions with options, and the scores that several models give to these.

    Args:
        questions: The questions that all models answered.
        scores: Scores of the options, by the model's name.
        parameters: Number of parameters, by the model's name.
        listed: Names of all tasks that were to be evaluated.
        missing: Why a task has no question, by task.
        skipped: Number of prompts that were left out, by reason.
    """

    questions: Sequence[Question]
    scores: Mapping[str, ItemScores]
    parameters: Mapping[str, int]
    listed: Sequence[str]
    missing: Mapping[str, str]
    skipped: Mapping[str, int]

    def chosen(self) -> dict[str, list[int]]:
        """Return the index of the option that each model chooses for each question, by the model's name."""
        return {name: best_options(scores.scores) for name, scores in self.scores.items()}

    @property
    def mean_name(self) -> str:
        """Name of the mean over tasks; it states if tasks are missing."""
        evaluated = len({question.task for question in self.questions})
        of = f"{evaluated} of {len(self.listed)}" if evaluated < len(self.listed) else str(evaluated)
        return f"mean of {of} tasks"


def classification_report(classified: Classified) -> dict[str, Any]:
    """Return accuracies of each model and by chance, and differences from the first model, as JSON values.

    The accuracy on a task is a mean over its templates. Its 95% interval is over resampled rows of the dataset; the
    prompts of a row are resampled together. Differences are paired by row.
    """
    questions = classified.questions
    models: dict[str, dict[str, Any]] = {}
    contributions: dict[str, dict[str, Values]] = {}
    for name, of_model in classified.scores.items():
        right = right_answers(questions, of_model.scores)
        contributions[name] = row_contributions(questions, right)
        scores = {task: one._asdict() for task, one in accuracies(questions, right).items()}
        models[name] = {
            "parameters": classified.parameters[name],
            "cuts": classified.scores[name].cuts._asdict(),
            **_with_intervals(scores, contributions[name]),
        }
    chance = {task: one._asdict() for task, one in accuracies_by_chance(questions).items()}
    by_chance = row_contributions(questions, chance_of_right_answers(questions))
    first, *others = contributions
    return {
        "mean_of": classified.mean_name,
        "models": models,
        "chance": {"mean": _means(chance), "tasks": chance},
        "over_chance": {name: _difference(own, by_chance) for name, own in contributions.items()},
        "differences": {
            f"{name} over {first}": _difference(contributions[name], contributions[first]) for name in others
        },
        "missing": dict(classified.missing),
        "skipped": dict(classified.skipped),
    }


def _with_intervals(scores: dict[str, dict[str, Any]], contributions: Mapping[str, Values]) -> dict[str, Any]:
    """Mean and tasks of a model, with the 95% intervals of means over templates."""
    for task, values in contributions.items():
        scores[task] |= {"rows": len(values), **_ends(Resampling()(values))}
    return {"mean": {**_means(scores), **_ends(_resampled(contributions))}, "tasks": scores}


def _ends(resampled: Values) -> dict[str, float]:
    """The ends of an interval; a row of a template that few rows have counts so much that a resample can exceed 1."""
    estimate = interval(resampled, 0)
    return {"low": max(estimate.low, 0.0), "high": min(estimate.high, 1.0)}


def _difference(own: Mapping[str, Values], base: Mapping[str, Values]) -> dict[str, Any]:
    """Differences of a model's accuracy from another one's: the mean over tasks, and each task."""
    gains = {task: own[task] - base[task] for task in base}
    tasks = {task: difference(Resampling()(values))._asdict() for task, values in gains.items()}
    return {**difference(_resampled(gains))._asdict(), "tasks": tasks}


def _resampled(by_task: Mapping[str, Values]) -> Values:
    """[1 + R]: the mean over tasks, then that of R resamples of their rows, the same in every call."""
    draw = Resampling()
    resampled: Values = np.mean([draw(values) for values in by_task.values()], axis=0)
    return resampled


def _means(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {kind: fmean(task[kind] for task in scores.values()) for kind in ("template_mean", "pooled")}


def write_questions(path: Path, classified: Classified) -> None:
    """Write a line for each question: its options, the right one, and every model's scores and choice."""
    chosen = classified.chosen()
    with whole_file(path) as out:
        for place, question in enumerate(classified.questions):
            line = question._asdict() | {
                "choices": {name: places[place] for name, places in chosen.items()},
                "scores": {name: scores.scores[place] for name, scores in classified.scores.items()},
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def print_classification(report: Mapping[str, Any]) -> None:
    """Print a table of accuracies by task, with a column for each model.

    A cell is the mean over templates, its 95% interval, and in brackets the accuracy over all prompts.
    """
    models = report["models"]
    console = Console()
    if not console.is_terminal:  # a log must not wrap the table
        longest = max(map(len, [*report["chance"]["tasks"], *report["missing"]]), default=0)
        console = Console(width=max(120, longest + 48 + 32 * len(models)))
    table = Table(
        Column("task", overflow="fold"),
        *map(terminal_text, models),
        CHANCE,
        "templates",
        "questions",
        title="Accuracy, percent: mean over templates [95% interval over rows] (pooled)",
    )
    for task, counted in report["chance"]["tasks"].items():
        cells = [_percent(model["tasks"][task]) for model in models.values()]
        counts = str(counted["templates"]), str(counted["questions"])
        table.add_row(terminal_text(task), *cells, _percent(counted), *counts)
    for task in report["missing"]:
        table.add_row(terminal_text(task), *["missing"] * len(models), "", "", "")
    means = [_percent(model["mean"]) for model in models.values()]
    table.add_row(report["mean_of"], *means, _percent(report["chance"]["mean"]))
    console.print(table)
    for line in _remarks(report):
        console.print(terminal_text(line), highlight=False)


def _remarks(report: Mapping[str, Any]) -> list[str]:
    """Sentences below the table: differences, cuts, missing tasks and skipped prompts."""
    lines = [
        f"{name}: {100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}], "
        f"p = {gain['p']:.3f}, {report['mean_of']}"
        for name, gain in report["differences"].items()
    ]
    for name, model in report["models"].items():
        cuts = model["cuts"]
        if cuts["cut"]:
            equal = f", and {cuts['equal']} differ from another one only in the part that was cut"
            lines.append(f"{name}: {cuts['cut']} of {cuts['pairs']} texts were too long and were cut{equal}")
    lines += [f"missing: {task}: {reason}" for task, reason in report["missing"].items()]
    if report["skipped"]:
        lines.append(f"not evaluated: {report['skipped']}")
    return lines


def _percent(score: Mapping[str, float]) -> str:
    inside = f" [{100 * score['low']:.1f}, {100 * score['high']:.1f}]" if "low" in score else ""
    return f"{100 * score['template_mean']:.1f}{inside} ({100 * score['pooled']:.1f})"
