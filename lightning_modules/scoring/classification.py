"""Zero-shot classification: options are ranked by a scorer, or by a language model's likelihood.

As in Cappy (arXiv 2311.06720, section 4.1), the option with the highest score is the answer to a prompt, and a task has
several templates. The paper's text averages a task's accuracy over templates; its released program pools all (template,
example) pairs, which differs if templates apply to different numbers of examples. Both are computed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.benchmarks import Benchmark
from ...datamodules.evaluation.lossy_tokenization import equal_options_reason
from ...datamodules.evaluation.options import option_problem
from ...datamodules.rendering.chat import chat_prompt
from ...datamodules.rendering.prompts import PromptForm, rendering_rng
from ...datamodules.rendering.skipped_examples import skip_reason
from ...datamodules.rendering.unknown_tokens import UnknownCounter
from ...datamodules.schema import Example, Turn
from ...datamodules.scoring.instruction_truncation import Cut
from ...datamodules.scoring.pair_rows import tokenize_texts
from ...datamodules.scoring.truncated_texts import CutTexts
from ..evaluation.answer_form import answer_form
from ..evaluation.likelihood import score_options
from .cross_encoder import CrossEncoder


class Question(NamedTuple):
    """An example with answer options, rendered as a prompt by one template.

    Args:
        task: Name of the task.
        template: Name of the prompt template.
        instruction: Text of the prompt.
        options: Texts of the options.
        answer: Index of the right option.
        row: Row of the benchmark that the example was made from.
        id: Id of the example.
    """

    task: str
    template: str
    instruction: str
    options: tuple[str, ...]
    answer: int
    row: int = 0
    id: str = ""


class TaskAccuracy(NamedTuple):
    """Accuracy on a task, in [0, 1].

    Args:
        template_mean: Mean of the accuracies of the task's templates, as in the text of Cappy's paper.
        pooled: Accuracy over all (template, example) pairs, as in Cappy's released program.
        templates: Number of templates.
        questions: Number of (template, example) pairs.
    """

    template_mean: float
    pooled: float
    templates: int
    questions: int


Values = NDArray[np.float64]

Accuracies = dict[str, TaskAccuracy]
"""Accuracy of every task, by its name."""


def right_answers(questions: Sequence[Question], scores: Sequence[Sequence[float]]) -> list[float]:
    """Return 1 for each question whose right option has the highest score, else 0; among ties, its share of them.

    A model with equal scores is therefore as good as chance, whatever the place of the right options.

    >>> right_answers([Question("t", "", "?", ("a", "b", "c"), 0)] * 2, [[-1.0, -2.0, -3.0], [-1.0, -1.0, -3.0]])
    [1.0, 0.5]
    """
    best = [[score == max(of_question) for score in of_question] for of_question in scores]
    return [top[question.answer] / sum(top) for question, top in zip(questions, best, strict=True)]


def chance_of_right_answers(questions: Sequence[Question]) -> list[float]:
    """Return for each question the probability that a random option is the right one."""
    return [1 / len(question.options) for question in questions]


def row_contributions(questions: Sequence[Question], right: Sequence[float]) -> dict[str, Values]:
    """Return one number per row of the benchmark for each task, whose mean is the task's accuracy over templates.

    A confidence interval resamples these numbers, since the prompts that several templates make of one row are not
    independent. With T templates, a right answer to one of the n questions of a template counts rows / (T n) for its
    row.

    >>> x, y = (Question("t", template, "?", ("a", "b"), 0, row) for template, row in (("x", 0), ("y", 1)))
    >>> row_contributions([x, x._replace(row=1), y], [1.0, 0.0, 1.0])
    {'t': array([0.5, 1. ])}
    """
    sizes = Counter((question.task, question.template) for question in questions)
    templates = Counter(task for task, _ in sizes)
    by_task: dict[str, dict[int, float]] = {}
    for question, share in zip(questions, right, strict=True):
        rows = by_task.setdefault(question.task, {})
        weight = 1 / (templates[question.task] * sizes[question.task, question.template])
        rows[question.row] = rows.get(question.row, 0.0) + weight * share
    return {task: len(rows) * np.array(list(rows.values())) for task, rows in by_task.items()}


def accuracies_by_chance(questions: Sequence[Question]) -> Accuracies:
    """Return the expected accuracy of choosing options at random, on every task."""
    return accuracies(questions, chance_of_right_answers(questions))


def accuracies(questions: Sequence[Question], right: Sequence[float]) -> Accuracies:
    """Return the accuracy on every task, averaged over templates and over all (template, example) pairs.

    `right` has a number for each question: 1 for a right answer, 0 for a wrong one, a share for a tie.

    >>> sampled = [Question("t", template, "?", ("a", "b"), 0) for template in ("x", "x", "x", "y")]
    >>> accuracies(sampled, [1.0, 1.0, 1.0, 0.0])["t"]
    TaskAccuracy(template_mean=0.5, pooled=0.75, templates=2, questions=4)
    """
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
    """Render the examples of a task that have options and one right answer, and yield them as questions.

    Args:
        benchmark: Benchmark that has the task.
        name: Name of the task.
        prompt: How examples are rendered; None for their inputs as they are.
        seed: Seed of rendering.
        skipped: Receives the number of examples that cannot be used, by reason.
        rows: Number of rows of the task to read, from its first one; None for all.
    """
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
        yield Question(
            name, example.template or "", text.strip(), example.options, example.answer, example.index, example.id
        )


def distinguishable(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, skipped: Counter[str]
) -> list[Question]:
    """Return the questions whose options have different tokens; the others are counted in `skipped`.

    Args:
        questions: Questions of any tasks.
        tokenizer: Tokenizer of a model that chooses among the options.
        skipped: Receives the number of questions that are left out, by task.
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
    if len({*map(str.strip, example.options)} & {*map(str.strip, example.targets)}) > 1:
        return "several right options"
    return option_problem(example.options, example.answer)


def scores_by_scorer(encoder: CrossEncoder, questions: Sequence[Question]) -> list[list[float]]:
    """Return a scorer's score of each option of each question; higher is better."""
    pairs = [(question.instruction, option) for question in questions for option in question.options]
    scores = encoder.score([instruction for instruction, _ in pairs], [option for _, option in pairs])
    return [of_question.tolist() for of_question in scores.split([len(question.options) for question in questions])]


def scores_by_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    longest: int,
    cut: Cut = "middle",
    chat: bool = False,
    tokens_per_forward: int = 8192,
    cuts: CutTexts | None = None,
) -> list[list[float]]:
    """Return the log-likelihood of each option of each question under a language model, summed over its tokens.

    Args:
        model: A causal or encoder-decoder language model.
        tokenizer: Tokenizer of the model.
        questions: Questions of any tasks.
        longest: Largest number of tokens of prompt and option together (in an encoder-decoder model, of the prompt).
        cut: Part of a prompt that is cut if it is too long: "beginning", "middle" or "end".
        chat: Whether a prompt is rendered as a user's message by the tokenizer's chat template, and an option ends as
            an answer ends there.
        tokens_per_forward: Largest number of tokens in a forward pass.
        cuts: Receives every prompt that was cut; None for a warning with their number.
    """
    prompts = [question.instruction for question in questions]
    scores = score_options(
        model,
        tokenizer,
        [chat_prompt(tokenizer, [Turn("user", prompt)]) for prompt in prompts] if chat else prompts,
        [question.options for question in questions],
        **answer_form(tokenizer, chat=chat)._asdict(),
        longest=longest,
        cut=cut,
        tokens_per_forward=tokens_per_forward,
        cuts=cuts,
    )
    return [list(of_question.sum) for of_question in scores]


def best_options(scores: Sequence[Sequence[float]]) -> list[int]:
    """Return the index of the highest score of each question; the first of equal ones."""
    return [max(range(len(of_question)), key=of_question.__getitem__) for of_question in scores]
