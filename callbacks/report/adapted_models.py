"""Comparison of language models adapted through scorers: frozen, in-context, fine-tuned, prefix-tuned.

These are the tables of Cappy (arXiv 2311.06720) that compare language models with and without the scorer: Table 3
(fine-tuned) and Table 7 (in-context learning and prompt tuning).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datamodules.data_files import parse_json, text_lines
from ...datamodules.messages import some
from ...datamodules.record_fields import number_field
from ...datamodules.visible_text import escape_markdown
from ...lightning_modules.evaluation.significance import Difference, Estimate, Resampling, difference, interval
from .model_sizes import BEST_SINGLE, LIKELIHOOD, read_report

Values = NDArray[np.float64]
Instance = tuple[str, str]
"""Task and id."""


class AdaptedModel(NamedTuple):
    """Results of `crosstask adapt` with one language model.

    Args:
        scorers: Names of the methods in which a scorer chooses among the responses.
        tasks: The task of each instance.
        quality: ROUGE-L in [0, 1] of each method's choices, [instances], by the method's name.
    """

    scorers: list[str]
    tasks: list[str]
    quality: dict[str, Values]


class AdaptedModels(NamedTuple):
    """Comparison of several language models, each with and without a scorer, on the same test instances.

    Args:
        tasks: Number of tasks.
        instances: Number of instances.
        scores: Mean over tasks of each method's choices, by model and method.
        with_scorer: For each model and scorer, the paired gain over each method without it: self-scoring and the best
            single decoding.
        over_first: For each other model, the paired difference of each method from that method with the first model.
    """

    tasks: int
    instances: int
    scores: dict[str, dict[str, Estimate]]
    with_scorer: dict[str, dict[str, dict[str, Difference]]]
    over_first: dict[str, dict[str, Difference]]


def adapted_models(folders: Mapping[str, Path]) -> AdaptedModels:
    """Compare language models by the outputs of `crosstask adapt` on the same test instances.

    Args:
        folders: Output folder of each language model, by the model's name.

    Raises:
        ValueError: A folder is no such output, or the models were tested on different instances.
    """
    models = {name: _read_model(folder) for name, folder in folders.items()}
    (first, base), *others = models.items()
    for name, (model, instances) in others:
        if differ := sorted(set(instances) ^ set(base[1])):
            shown = some([f"{task} {id_}" for task, id_ in differ])
            raise ValueError(
                f"{folders[name]} has {len(instances)} test instances and {folders[first]} {len(base[1])}; they differ "
                f"in {shown}: sample responses to the same instances, and adapt with the same test_examples"
            )
        places = {instance: place for place, instance in enumerate(instances)}
        order = [places[instance] for instance in base[1]]
        quality = {method: values[order] for method, values in model.quality.items()}
        models[name] = model._replace(tasks=base[0].tasks, quality=quality), base[1]
    return _compared({name: model for name, (model, _) in models.items()})


def _compared(models: Mapping[str, AdaptedModel]) -> AdaptedModels:
    first = next(iter(models.values()))
    names = list(dict.fromkeys(first.tasks))
    places = [[place for place, task in enumerate(first.tasks) if task == name] for name in names]
    count = len(first.tasks)

    def resampled(values: Values) -> Values:
        """[1 + R]: the mean over tasks of values [instances], and of R resamples, the same in every call."""
        draw = Resampling()
        return np.asarray(np.mean([draw(values[members]) for members in places], axis=0))

    def gains(model: AdaptedModel, scorer: str) -> dict[str, Difference]:
        bases = [method for method in (LIKELIHOOD, BEST_SINGLE) if method in model.quality]
        return {base: difference(resampled(model.quality[scorer] - model.quality[base])) for base in bases}

    scores = {
        name: {method: interval(resampled(values), count) for method, values in model.quality.items()}
        for name, model in models.items()
    }
    return AdaptedModels(
        len(names),
        count,
        scores,
        {name: {scorer: gains(model, scorer) for scorer in model.scorers} for name, model in models.items()},
        {
            name: {
                method: difference(resampled(values - first.quality[method]))
                for method, values in model.quality.items()
                if method in first.quality
            }
            for name, model in list(models.items())[1:]
        },
    )


def _read_model(folder: Path) -> tuple[AdaptedModel, list[Instance]]:
    """Return the results in a folder, and the instances in the order of its files.

    Raises:
        ValueError: The folder is no output of `crosstask adapt`.
    """
    report, path = read_report(str(folder)), folder / "choices.jsonl"
    if "methods" not in report or not path.is_file():
        raise ValueError(f"{folder} is no output of `crosstask adapt`: it needs report.json and choices.jsonl")
    instances: list[Instance] = []
    rows: list[dict[str, float]] = []
    for record, where in _records(path):
        try:
            instances.append((record["task"], record["id"]))
            rows.append(_qualities(record))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where} is no line of `crosstask adapt` ({error!r})") from error
    methods = [method for method in report["methods"] if all(method in row for row in rows)]
    quality = {method: np.array([row[method] for row in rows]) for method in methods}
    quality[BEST_SINGLE] = quality[report["best_single"]]
    return AdaptedModel(list(report["scorers"]), [task for task, _ in instances], quality), instances


def _records(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    for number, line in text_lines(path):
        where = f"{path}:{number}"
        yield parse_json(line, where), where


def _qualities(record: Mapping[str, Any]) -> dict[str, float]:
    """ROUGE-L of each method's choice, of a random choice and of the best response."""
    scores = {one["response"]: number_field(one, "rouge_l", 0, 1) for one in record["responses"]}
    every = [number_field(one, "rouge_l", 0, 1) for one in record["responses"]]
    chosen = {method: scores[response] for method, response in record["choices"].items()}
    return chosen | {"random": float(np.mean(every)), "oracle": max(every)}


def to_json(compared: AdaptedModels) -> str:
    """Return the comparison as JSON."""
    estimates = {
        name: {method: {"mean": one.mean, "low": one.low, "high": one.high} for method, one in of.items()}
        for name, of in compared.scores.items()
    }
    gains = {
        name: {scorer: {base: gain._asdict() for base, gain in of.items()} for scorer, of in scorers.items()}
        for name, scorers in compared.with_scorer.items()
    }
    differences = {
        name: {method: one._asdict() for method, one in of.items()} for name, of in compared.over_first.items()
    }
    counts = {"tasks": compared.tasks, "instances": compared.instances}
    return json.dumps(counts | {"scores": estimates, "with_scorer": gains, "over_first": differences}, indent=1)


def to_markdown(compared: AdaptedModels) -> str:
    """Return the comparison as Markdown: scores, gains through the scorer, and differences to the first model."""
    names = list(compared.scores)
    methods = list(dict.fromkeys(method for of in compared.scores.values() for method in of if method != BEST_SINGLE))
    lines = [
        "# Language models with and without the scorer",
        "",
        f"ROUGE-L in percent, mean over {compared.tasks} tasks with {compared.instances} test instances; 95% intervals "
        "over resampled instances.",
        "",
        *_table(
            "chosen by",
            names,
            {method: [_estimate(compared.scores[name].get(method)) for name in names] for method in methods},
        ),
        "",
        "## With the scorer over without it",
        "",
        "Paired by instance.",
        "",
    ]
    rows = {
        f"{scorer} over {base}": [_gain(compared.with_scorer[name].get(scorer, {}).get(base)) for name in names]
        for scorer in dict.fromkeys(scorer for of in compared.with_scorer.values() for scorer in of)
        for base in (LIKELIHOOD, BEST_SINGLE)
    }
    lines += _table("", names, rows)
    if others := list(compared.over_first):
        lines += ["", f"## Over {escape_markdown(names[0])}", "", "Paired by instance, with equal choosing.", ""]
        shared = [method for method in methods if any(method in compared.over_first[name] for name in others)]
        lines += _table(
            "chosen by",
            others,
            {method: [_gain(compared.over_first[name].get(method)) for name in others] for method in shared},
        )
    return "\n".join(lines) + "\n"


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    lines = [f"| {corner} | {' | '.join(map(escape_markdown, columns))} |", "|---|" + "---|" * len(columns)]
    return lines + [f"| {escape_markdown(name)} | {' | '.join(cells)} |" for name, cells in rows.items()]


def _estimate(one: Estimate | None) -> str:
    return "" if one is None else f"{100 * one.mean:.2f} [{100 * one.low:.2f}, {100 * one.high:.2f}]"


def _gain(gain: Difference | None) -> str:
    return "" if gain is None else f"{100 * gain.mean:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
