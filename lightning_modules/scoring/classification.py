"""The command ``crosstask classify``: options ranked zero-shot by a scorer, or by a language model's likelihood.

Cappy's classification (arXiv 2311.06720, section 4.1): the option with the highest score is the answer, for every
template of a task. The paper's text averages a task's accuracy over templates; its released program pools all
(template, example) pairs, which differs where templates apply to different numbers of examples. Both are reported.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.benchmarks import Benchmark, Split
from ...datamodules.evaluation.options import candidate_problem
from ...datamodules.rendering.prompts import PromptForm, rendering_rng
from ...datamodules.rendering.tokenization import refusal
from ...datamodules.schema import Example
from ...datamodules.scoring.pair_rows import Truncation
from ..evaluation.likelihood import score_candidates
from .cross_encoder import CrossEncoder
from .sampling import load_generator


class Question(NamedTuple):
    """An example with options: what is read, and how it is counted."""

    task: str
    template: str
    instruction: str
    options: tuple[str, ...]
    answer: int


class TaskAccuracy(NamedTuple):
    """Accuracy on a task, in [0, 1].

    Args:
        template_mean: Mean over templates of their accuracies, as the paper's text has it.
        pooled: Over all (template, example) pairs, as its released program has it.
        templates: How many.
        questions: How many pairs.
    """

    template_mean: float
    pooled: float
    templates: int
    questions: int


Accuracies = dict[str, TaskAccuracy]
"""Of every task, by its name."""


def accuracies(questions: Sequence[Question], chosen: Sequence[int]) -> Accuracies:
    """Accuracy of every task from the option chosen for every question.

    >>> asked = [Question("t", template, "?", ("a", "b"), 0) for template in ("x", "x", "x", "y")]
    >>> accuracies(asked, [0, 0, 0, 1])["t"]
    TaskAccuracy(template_mean=0.5, pooled=0.75, templates=2, questions=4)
    """
    return _means_of(
        questions, [float(place == question.answer) for question, place in zip(questions, chosen, strict=True)]
    )


def accuracies_by_chance(questions: Sequence[Question]) -> Accuracies:
    """What a random choice among the options has on average."""
    return _means_of(questions, [1 / len(question.options) for question in questions])


def _means_of(questions: Sequence[Question], right: Sequence[float]) -> Accuracies:
    by_task: dict[str, dict[str, list[float]]] = {}
    for question, share in zip(questions, right, strict=True):
        by_task.setdefault(question.task, {}).setdefault(question.template, []).append(share)
    found = {}
    for task, templates in by_task.items():
        pairs = [each for own in templates.values() for each in own]
        found[task] = TaskAccuracy(fmean(map(fmean, templates.values())), fmean(pairs), len(templates), len(pairs))
    return found


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
    refused: Counter[str] = Counter()
    names = list(tasks) or benchmark.task_names(split)
    questions = [
        question for name in names for question in read_questions(benchmark, name, prompt, seed, refused, rows=examples)
    ]
    if not questions:
        raise ValueError(f"none of {len(names)} tasks has an example with options and an answer: {dict(refused)}")
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
    asked = {question.task for question in questions}
    missing = [name for name in names if name not in asked]
    models = {name: {"parameters": parameters[name], **_to_json(own)} for name, own in found.items()}
    chance = accuracies_by_chance(questions)
    report = {"models": models, "chance": _to_json(chance), "missing": missing, "refused": refused}
    path.write_text(json.dumps(report, indent=1))
    _print({**found, "by chance": chance}, missing, refused)


def read_questions(
    benchmark: Benchmark,
    name: str,
    prompt: PromptForm | None,
    seed: int,
    refused: Counter[str],
    *,
    rows: int | None = None,
) -> Iterator[Question]:
    """Examples of a task that have options and an answer, of its first rows; others are counted by reason."""
    task, seen = benchmark.task(name), set[int]()
    for example in benchmark.examples(name):
        seen.add(example.index)
        if rows is not None and len(seen) > rows:
            return
        reason = refusal(task, example) or _unanswerable(example)
        if reason:
            refused[reason] += 1
            continue
        text = prompt(task, example, rendering_rng(seed, name, example.id)).source if prompt else example.input
        assert example.answer is not None
        yield Question(name, example.template or "", text.strip(), example.options, example.answer)


def _unanswerable(example: Example) -> str | None:
    if len(example.options) < 2:
        return "no options to choose from"
    if example.answer is None:
        return "no right option"
    return candidate_problem(example.options, example.answer)


def choose_by_scorer(encoder: CrossEncoder, questions: Sequence[Question]) -> list[int]:
    """The best-scored option of each question; of equal ones the first."""
    pairs = [(question.instruction, option) for question in questions for option in question.options]
    scores = encoder.score([instruction for instruction, _ in pairs], [option for _, option in pairs])
    return [int(own.argmax()) for own in scores.split([len(question.options) for question in questions])]


def choose_by_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], longest: int
) -> list[int]:
    """The option of each question with the greatest summed log-likelihood; of equal ones the first."""
    instructions = [question.instruction for question in questions]
    scores = score_candidates(model, tokenizer, instructions, [each.options for each in questions], longest=longest)
    return [each.best("sum").place for each in scores]


def _to_json(found: Accuracies) -> dict[str, Any]:
    return {"mean": _means(found), "tasks": {task: each._asdict() for task, each in found.items()}}


def _means(found: Accuracies) -> dict[str, float]:
    return {
        "template_mean": fmean(each.template_mean for each in found.values()),
        "pooled": fmean(each.pooled for each in found.values()),
    }


def _print(found: dict[str, Accuracies], missing: Sequence[str], refused: Counter[str]) -> None:
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
    if refused:
        console.print(f"not asked: {dict(refused)}", highlight=False)


def _percent(template_mean: float, pooled: float) -> str:
    return f"{100 * template_mean:.1f} ({100 * pooled:.1f})"
