"""Zero-shot classification: options ranked by a scorer, or by a language model's likelihood.

As in Cappy (arXiv 2311.06720, section 4.1), the option with the highest score is the answer, in every template of a
task. The paper's text averages a task's accuracy over templates; its released program pools all (template, example)
pairs, which differs if templates apply to different numbers of examples. Both are computed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.benchmarks import Benchmark
from ...datamodules.evaluation.lost_text import equal_options_reason
from ...datamodules.evaluation.options import option_problem
from ...datamodules.rendering.prompts import PromptForm, rendering_rng
from ...datamodules.rendering.tokenization import skip_reason
from ...datamodules.rendering.unknown_tokens import UnknownCounter
from ...datamodules.schema import Example
from ...datamodules.scoring.pair_rows import tokenize_texts
from ..evaluation.likelihood import score_options
from .cross_encoder import CrossEncoder


class Question(NamedTuple):
    """A rendered example with options, and the place of the right one."""

    task: str
    template: str
    instruction: str
    options: tuple[str, ...]
    answer: int


class TaskAccuracy(NamedTuple):
    """Accuracy on a task, in [0, 1].

    Args:
        template_mean: Mean of the templates' accuracies, as in the paper's text.
        pooled: Accuracy over all (template, example) pairs, as in its released program.
        templates: Number of templates.
        questions: Number of pairs.
    """

    template_mean: float
    pooled: float
    templates: int
    questions: int


Accuracies = dict[str, TaskAccuracy]
"""Accuracy of every task, by its name."""


def accuracies(questions: Sequence[Question], chosen: Sequence[int]) -> Accuracies:
    """Accuracy of every task from the option chosen for every question.

    >>> sampled = [Question("t", template, "?", ("a", "b"), 0) for template in ("x", "x", "x", "y")]
    >>> accuracies(sampled, [0, 0, 0, 1])["t"]
    TaskAccuracy(template_mean=0.5, pooled=0.75, templates=2, questions=4)
    """
    return _means_of(
        questions, [float(place == question.answer) for question, place in zip(questions, chosen, strict=True)]
    )


def accuracies_by_chance(questions: Sequence[Question]) -> Accuracies:
    """The expected accuracy of a random choice among the options."""
    return _means_of(questions, [1 / len(question.options) for question in questions])


def _means_of(questions: Sequence[Question], right: Sequence[float]) -> Accuracies:
    by_task: dict[str, dict[str, list[float]]] = {}
    for question, share in zip(questions, right, strict=True):
        by_task.setdefault(question.task, {}).setdefault(question.template, []).append(share)
    means = {}
    for task, templates in by_task.items():
        pairs = [share for shares in templates.values() for share in shares]
        means[task] = TaskAccuracy(fmean(map(fmean, templates.values())), fmean(pairs), len(templates), len(pairs))
    return means


def read_questions(
    benchmark: Benchmark,
    name: str,
    prompt: PromptForm | None,
    seed: int,
    skipped: Counter[str],
    *,
    rows: int | None = None,
) -> Iterator[Question]:
    """Yield the examples of a task's first `rows` rows with options and an answer; others are counted in `skipped`."""
    task, seen = benchmark.task(name), set[int]()
    for example in benchmark.examples(name):
        seen.add(example.index)
        if rows is not None and len(seen) > rows:
            return
        reason = skip_reason(task, example) or _options_problem(example)
        if reason:
            skipped[reason] += 1
            continue
        text = prompt(task, example, rendering_rng(seed, name, example.id)).source if prompt else example.input
        assert example.answer is not None
        yield Question(name, example.template or "", text.strip(), example.options, example.answer)


def distinguishable(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, skipped: Counter[str]
) -> list[Question]:
    """The questions whose options are different tokens; others are counted in `skipped`, by task.

    Args:
        questions: Questions.
        tokenizer: Of a model that chooses among the options.
        skipped: Receives the counts.
    """
    if not UnknownCounter(tokenizer).loses_text:
        return list(questions)
    ids = tokenize_texts(tokenizer, [option.strip() for question in questions for option in question.options])
    kept = []
    for question in questions:
        if len({tuple(ids[option.strip()]) for option in question.options}) < len(question.options):
            skipped[equal_options_reason(question.task)] += 1
        else:
            kept.append(question)
    return kept


def _options_problem(example: Example) -> str | None:
    if len(example.options) < 2:
        return "no options to choose from"
    if example.answer is None:
        return "no right option"
    return option_problem(example.options, example.answer)


def choose_by_scorer(encoder: CrossEncoder, questions: Sequence[Question]) -> list[int]:
    """The option with the highest score, for each question; of equal ones the first."""
    pairs = [(question.instruction, option) for question in questions for option in question.options]
    scores = encoder.score([instruction for instruction, _ in pairs], [option for _, option in pairs])
    return [
        int(of_question.argmax()) for of_question in scores.split([len(question.options) for question in questions])
    ]


def choose_by_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], longest: int
) -> list[int]:
    """The option with the highest summed log-likelihood, for each question; of equal ones the first."""
    instructions = [question.instruction for question in questions]
    scores = score_options(model, tokenizer, instructions, [q.options for q in questions], longest=longest)
    return [of_question.best("sum").place for of_question in scores]
