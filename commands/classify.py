"""``crosstask classify``: answer tasks with options zero-shot, by scorers and language models."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from ..datamodules.benchmarks import Benchmark, Split
from ..datamodules.rendering.prompts import PromptForm
from ..datamodules.scoring.pair_rows import Truncation
from ..lightning_modules.scoring.classification import (
    Accuracies,
    accuracies,
    accuracies_by_chance,
    choose_by_likelihood,
    choose_by_scorer,
    read_questions,
)
from ..lightning_modules.scoring.cross_encoder import CrossEncoder
from ..lightning_modules.scoring.sampling import load_generator


def classify_tasks(
    benchmark: Benchmark,
    output: str,
    scorer: str | dict[str, str] | None = None,
    generator: str | dict[str, str] | None = None,
    split: Split = "train",
    tasks: Sequence[str] = (),
    examples: int | None = None,
    prompt: PromptForm | None = None,
    max_length: int = 512,
    truncation: Truncation = "instruction",
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Answer tasks with options zero-shot and print accuracies, by task and their unweighted mean.

    Several models stand side by side, each by a name: --scorer '{cappy: btan2/cappy-large, reward: runs/reward}'.

    Args:
        benchmark: Reader of the tasks; for all templates of PromptSource, ``prompts: all``.
        output: File of the accuracies, JSON.
        scorer: Hub name or folder of a scorer, or of several by name.
        generator: A language model, or several, whose summed log-likelihood ranks options; beside a scorer or alone.
        split: The benchmark's split that lists the tasks; PromptSource lists all of its tasks as training tasks.
        tasks: Names of the tasks; all of the split if empty.
        examples: Most rows of a task, each in all its templates; all by default.
        prompt: How instructions are rendered; by default the example's input alone, as the released program reads it.
        max_length: Most tokens of an instruction with an option.
        truncation: What a longer pair of the scorer loses; longest_first is the released program's way.
        seed: Decides how instructions read where `prompt` draws.
        device: Where the models run.
    """
    scorers, generators = (
        {name: given} if isinstance(given, str) else given or {}
        for name, given in (("scorer", scorer), ("generator", generator))
    )
    if not {**scorers, **generators}:
        raise ValueError("give a scorer or a generator, or both")
    if shared := sorted(set(scorers) & set(generators)):
        raise ValueError(f"a scorer and a generator are both called {', '.join(shared)}")
    skipped: Counter[str] = Counter()
    names = list(tasks) or benchmark.task_names(split)
    questions = [
        question for name in names for question in read_questions(benchmark, name, prompt, seed, skipped, rows=examples)
    ]
    if not questions:
        raise ValueError(f"none of {len(names)} tasks has an example with options and an answer: {dict(skipped)}")
    found: dict[str, Accuracies] = {}
    parameters: dict[str, int] = {}
    for name, folder in scorers.items():
        encoder = CrossEncoder.from_pretrained(folder, device=device, max_length=max_length, truncation=truncation)
        found[name] = accuracies(questions, choose_by_scorer(encoder, questions))
        parameters[name] = encoder.model.num_parameters()
    for name, folder in generators.items():
        model, tokenizer = load_generator(folder, device=device)
        found[name] = accuracies(questions, choose_by_likelihood(model, tokenizer, questions, max_length))
        parameters[name] = model.num_parameters()
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    sampled = {question.task for question in questions}
    missing = [name for name in names if name not in sampled]
    models = {name: {"parameters": parameters[name], **_to_json(own)} for name, own in found.items()}
    chance = accuracies_by_chance(questions)
    report = {"models": models, "chance": _to_json(chance), "missing": missing, "skipped": skipped}
    path.write_text(json.dumps(report, indent=1))
    _print({**found, "by chance": chance}, missing, skipped)


def _to_json(found: Accuracies) -> dict[str, Any]:
    return {"mean": _means(found), "tasks": {task: each._asdict() for task, each in found.items()}}


def _means(found: Accuracies) -> dict[str, float]:
    return {
        "template_mean": fmean(each.template_mean for each in found.values()),
        "pooled": fmean(each.pooled for each in found.values()),
    }


def _print(found: dict[str, Accuracies], missing: Sequence[str], skipped: Counter[str]) -> None:
    """Accuracy as a mean over templates, and pooled in brackets, a column for each model."""
    table = Table("task", *found, "templates", "questions", title="Accuracy, percent: mean over templates (pooled)")
    first = next(iter(found.values()))
    for task, counted in first.items():
        own = [models[task] for models in found.values()]
        shown = [_percent(each.template_mean, each.pooled) for each in own]
        table.add_row(task, *shown, str(counted.templates), str(counted.questions))
    means = [_means(models) for models in found.values()]
    table.add_row(f"mean of {len(first)} tasks", *(_percent(each["template_mean"], each["pooled"]) for each in means))
    console = Console()
    if not console.is_terminal:  # a log wraps no table
        console = Console(width=max(120, 40 + 20 * len(found)))
    console.print(table)
    if missing:
        console.print(f"nothing to ask in {len(missing)} tasks: {', '.join(missing)}", highlight=False)
    if skipped:
        console.print(f"not sampled: {dict(skipped)}", highlight=False)


def _percent(template_mean: float, pooled: float) -> str:
    return f"{100 * template_mean:.1f} ({100 * pooled:.1f})"
