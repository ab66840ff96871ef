"""The command ``crosstask classify``: options ranked zero-shot by a scorer, or by a language model's likelihood.

Cappy's classification (arXiv 2311.06720, section 4.1): the option with the highest score is the answer, for every
template of a task. The paper's text averages a task's accuracy over templates; its released program pools all
(template, example) pairs, which differs where templates apply to different numbers of examples. Both are reported.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from ...datamodules.benchmarks import Benchmark, Split
from ...datamodules.rendering.prompts import PromptForm, rendering_rng
from ...datamodules.rendering.tokenization import refusal
from ...datamodules.schema import Example
from ..evaluation.candidates import score_candidates
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


def accuracies(questions: Sequence[Question], chosen: Sequence[int]) -> dict[str, TaskAccuracy]:
    """Accuracy of every task from the option chosen for every question.

    >>> asked = [Question("t", template, "?", ("a", "b"), 0) for template in ("x", "x", "x", "y")]
    >>> accuracies(asked, [0, 0, 0, 1])["t"]
    TaskAccuracy(template_mean=0.5, pooled=0.75, templates=2, questions=4)
    """
    right: dict[str, dict[str, list[bool]]] = {}
    for question, place in zip(questions, chosen, strict=True):
        right.setdefault(question.task, {}).setdefault(question.template, []).append(place == question.answer)
    found = {}
    for task, templates in right.items():
        pairs = [each for own in templates.values() for each in own]
        found[task] = TaskAccuracy(fmean(map(fmean, templates.values())), fmean(pairs), len(templates), len(pairs))
    return found


def classify_tasks(
    benchmark: Benchmark,
    output: str,
    scorer: str | None = None,
    generator: str | None = None,
    split: Split = "train",
    tasks: Sequence[str] = (),
    examples: int | None = None,
    prompt: PromptForm | None = None,
    max_length: int = 512,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Answer tasks with options zero-shot and print accuracies, by task and their unweighted mean.

    Args:
        benchmark: Reader of the tasks; for all templates of PromptSource, ``prompts: all``.
        output: File of the accuracies, JSON.
        scorer: Hub name or folder of a scorer.
        generator: In its place a language model, whose summed log-likelihood ranks options.
        split: The benchmark's split that lists the tasks; PromptSource lists all of its tasks as training tasks.
        tasks: Names of the tasks; all of the split if empty.
        examples: Most examples of a task; all by default.
        prompt: How instructions are rendered; by default the example's input alone, as the released program reads it.
        max_length: Most tokens of an instruction with an option.
        seed: Decides how instructions read where `prompt` draws.
        device: Where the model runs.
    """
    if (scorer is None) == (generator is None):
        raise ValueError(f"give either a scorer or a generator, got scorer={scorer!r} and generator={generator!r}")
    refused: Counter[str] = Counter()
    names = list(tasks) or benchmark.task_names(split)
    questions = [
        question
        for name in names
        for question in islice(read_questions(benchmark, name, prompt, seed, refused), examples)
    ]
    if not questions:
        raise ValueError(f"none of {len(names)} tasks has an example with options and an answer: {dict(refused)}")
    if scorer is not None:
        encoder = CrossEncoder.from_pretrained(scorer, device=device, max_length=max_length)
        chosen = choose_by_scorer(encoder, questions)
    else:
        chosen = choose_by_likelihood(str(generator), questions, max_length, device)
    found = accuracies(questions, chosen)
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if name not in found]
    report = {"tasks": {name: each._asdict() for name, each in found.items()}, "mean": _means(found)}
    path.write_text(json.dumps(report | {"missing": missing, "refused": refused}, indent=1))
    _print(found, missing, refused)


def read_questions(
    benchmark: Benchmark, name: str, prompt: PromptForm | None, seed: int, refused: Counter[str]
) -> Iterator[Question]:
    """Examples of a task that have options and an answer; others are counted by reason."""
    task = benchmark.task(name)
    for example in benchmark.examples(name):
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
    return "no right option" if example.answer is None else None


def choose_by_scorer(encoder: CrossEncoder, questions: Sequence[Question]) -> list[int]:
    """The best-scored option of each question; of equal ones the first."""
    pairs = [(question.instruction, option) for question in questions for option in question.options]
    scores = encoder.score([instruction for instruction, _ in pairs], [option for _, option in pairs])
    return [int(own.argmax()) for own in scores.split([len(question.options) for question in questions])]


def choose_by_likelihood(generator: str, questions: Sequence[Question], longest: int, device: str) -> list[int]:
    """The option of each question with the greatest summed log-likelihood; of equal ones the first."""
    model, tokenizer = load_generator(generator, device=device)
    instructions = [question.instruction for question in questions]
    scores = score_candidates(model, tokenizer, instructions, [each.options for each in questions], longest=longest)
    return [each.best("sum").place for each in scores]


def _means(found: dict[str, TaskAccuracy]) -> dict[str, float]:
    return {
        "template_mean": fmean(each.template_mean for each in found.values()),
        "pooled": fmean(each.pooled for each in found.values()),
    }


def _print(found: dict[str, TaskAccuracy], missing: Sequence[str], refused: Counter[str]) -> None:
    table = Table("task", "mean over templates", "pooled", "templates", "questions", title="Accuracy, percent")
    for name, each in found.items():
        figures = f"{100 * each.template_mean:.1f}", f"{100 * each.pooled:.1f}"
        table.add_row(name, *figures, str(each.templates), str(each.questions))
    mean = _means(found)
    table.add_row(f"mean of {len(found)} tasks", f"{100 * mean['template_mean']:.1f}", f"{100 * mean['pooled']:.1f}")
    console = Console()
    console.print(table)
    if missing:
        console.print(f"nothing to ask in {len(missing)} tasks: {', '.join(missing)}", highlight=False)
    if refused:
        console.print(f"not asked: {dict(refused)}", highlight=False)
