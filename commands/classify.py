"""Evaluate scorers and language models zero-shot on tasks with options.

It prints accuracies by task and their unweighted mean, and writes them as JSON. Several models are compared by name.

Example:
    crosstask classify --benchmark NaturalInstructions --benchmark.folder runs/quickstart/toybench --split test \\
      --scorer '{cappy: btan2/cappy-large}' --generator '{flan: google/flan-t5-large}' --output runs/accuracies.json
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from ..datamodules.benchmarks import Benchmark, Split
from ..datamodules.benchmarks.file_tasks import opened
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.prompts import PromptForm
from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.scoring.pair_rows import Truncation
from ..datamodules.visible_text import terminal_text
from ..datamodules.whole_files import require_new, write_whole
from ..lightning_modules.scoring.classification import (
    Accuracies,
    accuracies,
    accuracies_by_chance,
    choose_by_likelihood,
    choose_by_scorer,
    distinguishable,
    read_questions,
)
from ..lightning_modules.scoring.cross_encoder import CrossEncoder
from ..lightning_modules.scoring.sampling import load_generator
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Classify by the words of a command line."""
    run_function(classify_tasks, words, benchmarks=True)


def classify_tasks(
    benchmark: Benchmark | str,
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
    """Evaluate models zero-shot on tasks with options, and print accuracies by task and their unweighted mean.

    Several models are compared by name: --scorer '{cappy: btan2/cappy-large, reward: runs/reward}'.

    Args:
        benchmark: Reader of the tasks; for all templates of PromptSource, ``prompts: all``.
        output: JSON file of the accuracies, which is never overwritten.
        scorer: Hub name or folder of a scorer, or of several by name.
        generator: Hub name or folder of a language model, or of several by name; options are ranked by their summed
            log-likelihood.
        split: Split of the benchmark that lists the tasks; PromptSource lists all of its tasks as training tasks.
        tasks: Names of the tasks; all of the split if empty.
        examples: Largest number of rows of a task, each in all its templates; all by default.
        prompt: How instructions are rendered; by default the example's input alone, as in Cappy's released program.
        max_length: Tokens of the longest pair of instruction and option.
        truncation: What is cut from a longer pair of a scorer; Cappy's released program uses longest_first.
        seed: Seed of the rendering, where `prompt` draws at random.
        device: Device of the models.
    """
    path = Path(output).expanduser()
    require_new(path)
    require_positive("classify", max_length=max_length, examples=examples)
    scorers, generators = (
        {name: given} if isinstance(given, str) else given or {}
        for name, given in (("scorer", scorer), ("generator", generator))
    )
    if not {**scorers, **generators}:
        raise ValueError("give a scorer or a generator, or both")
    if shared := sorted(set(scorers) & set(generators)):
        raise ValueError(f"a scorer and a generator are both called {', '.join(shared)}")
    skipped: Counter[str] = Counter()
    benchmark = opened(benchmark)
    names = list(tasks) or benchmark.task_names(split)
    questions = [
        question for name in names for question in read_questions(benchmark, name, prompt, seed, skipped, rows=examples)
    ]
    for folder in {**scorers, **generators}.values():  # every model answers the same questions
        questions = distinguishable(questions, load_tokenizer(folder, eos=False), skipped)
    if not questions:
        raise ValueError(f"none of {len(names)} tasks has an example with options and an answer: {dict(skipped)}")
    by_model: dict[str, Accuracies] = {}
    parameters: dict[str, int] = {}
    for name, folder in scorers.items():
        encoder = CrossEncoder.from_pretrained(folder, device=device, max_length=max_length, truncation=truncation)
        by_model[name] = accuracies(questions, choose_by_scorer(encoder, questions))
        parameters[name] = encoder.model.num_parameters()
    for name, folder in generators.items():
        model, tokenizer = load_generator(folder, device=device)
        by_model[name] = accuracies(questions, choose_by_likelihood(model, tokenizer, questions, max_length))
        parameters[name] = model.num_parameters()
    sampled = {question.task for question in questions}
    missing = [name for name in names if name not in sampled]
    models = {name: {"parameters": parameters[name], **_to_json(scores)} for name, scores in by_model.items()}
    chance = accuracies_by_chance(questions)
    report = {"models": models, "chance": _to_json(chance), "missing": missing, "skipped": skipped}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(report, indent=1))
    _print({**by_model, "by chance": chance}, missing, skipped)


def _to_json(by_task: Accuracies) -> dict[str, Any]:
    return {"mean": _means(by_task), "tasks": {task: scores._asdict() for task, scores in by_task.items()}}


def _means(by_task: Accuracies) -> dict[str, float]:
    return {
        "template_mean": fmean(scores.template_mean for scores in by_task.values()),
        "pooled": fmean(scores.pooled for scores in by_task.values()),
    }


def _print(by_model: dict[str, Accuracies], missing: Sequence[str], skipped: Counter[str]) -> None:
    """Print a column for each model: the accuracy as a mean over templates, and pooled in brackets."""
    table = Table(
        "task",
        *map(terminal_text, by_model),
        "templates",
        "questions",
        title="Accuracy, percent: mean over templates (pooled)",
    )
    first = next(iter(by_model.values()))
    for task, counted in first.items():
        scores = [models[task] for models in by_model.values()]
        cells = [_percent(score.template_mean, score.pooled) for score in scores]
        table.add_row(terminal_text(task), *cells, str(counted.templates), str(counted.questions))
    means = [_means(models) for models in by_model.values()]
    table.add_row(f"mean of {len(first)} tasks", *(_percent(mean["template_mean"], mean["pooled"]) for mean in means))
    console = Console()
    if not console.is_terminal:  # a log must not wrap the table
        console = Console(width=max(120, 40 + 20 * len(by_model)))
    console.print(table)
    if missing:
        console.print(terminal_text(f"no question in {len(missing)} tasks: {', '.join(missing)}"), highlight=False)
    if skipped:
        console.print(terminal_text(f"not sampled: {dict(skipped)}"), highlight=False)


def _percent(template_mean: float, pooled: float) -> str:
    return f"{100 * template_mean:.1f} ({100 * pooled:.1f})"
