"""The evaluation set of a stage: held-out examples, their prompts and options, and counts of skipped examples."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

from ..benchmarks import Split
from ..noted_paths import noting
from ..rendering.example_cache import ExampleCache
from ..rendering.skipped_examples import skip_reason
from ..rendering.unknown_tokens import UnknownTokens
from ..schema import EvaluationExample, Example, Level, Prompt, Task
from ..splits import OPTION, generalization_level
from ..storage.preparation import Preparation
from .few_shot import FewShotPreparation
from .lost_text import equal_options_reason, lost_text, total
from .options import OptionRanking, label_options, options_of, ranking_problem


class EvaluationSet(NamedTuple):
    """The examples of one stage, in a fixed order that is the same on every replica.

    Args:
        examples: The evaluated examples; ``examples[i].number == i``.
        prompts: The rendered prompt of each example.
        skipped: Number of examples that cannot be scored, by reason.
        rows: The row of its task's file that each example comes from (``Example.index``).
        available: Number of rows of each task's file that can be evaluated.
        unknown: Unknown tokens in the evaluated examples of each task.
        sources_known: Whether the readers noted the files of every task.
    """

    examples: list[EvaluationExample]
    prompts: list[Prompt]
    skipped: Mapping[str, int]
    rows: Sequence[int] = ()
    available: Mapping[str, int] | None = None
    unknown: Mapping[str, UnknownTokens] | None = None
    sources_known: bool = True

    def part(self, *, options: bool) -> "EvaluationSet":
        """The examples with options, or those without, under their numbers in the whole set."""
        kept = [place for place, example in enumerate(self.examples) if bool(example.options) == options]
        return EvaluationSet([self.examples[place] for place in kept], [self.prompts[place] for place in kept], {})


def read_evaluation(
    preparation: Preparation,
    names: Mapping[Split, Sequence[str]],
    split: Split,
    trained: Sequence[Task],
    ranking: OptionRanking | None = None,
    shots: Sequence[int] = (0,),
) -> EvaluationSet:
    """Read and render the held-out instances of a split's tasks; examples that cannot be scored are counted by reason.

    Args:
        preparation: Renders examples; a ``FewShotPreparation`` if any number of `shots` is not 0.
        names: The tasks of each split.
        split: Which split to evaluate.
        trained: The training tasks, which decide each evaluated task's level of generalization.
        ranking: How options are ranked; an example whose options cannot be ranked is skipped, too.
        shots: Numbers of demonstrations; every instance is evaluated at each of them.

    Raises:
        ValueError: Nothing is left to evaluate.
    """
    trained_names = {task.name for task in trained}
    evaluated: list[EvaluationExample] = []
    prompts, rows, skipped, available, unknown = [], [], Counter[str](), {}, {}
    sources_known = True
    for name in names[split]:
        task = preparation.benchmark.task(name)
        of_task = ExampleCache(partial(preparation.benchmark.examples, name))
        with noting() as read:
            instances = preparation.split_instances(
                name,
                of_task,
                trained=name in trained_names,
                validated=name in names["validation"],
                tested=name in names["test"],
            )
        sources_known &= bool(read)
        places = instances.test if split == "test" else instances.validation
        part = _evaluated_part(preparation, task, of_task, places, ranking, shots)
        level = task.level or generalization_level(task, trained)
        available[name], unknown[name] = part.available, part.unknown
        skipped.update(part.reasons)
        for (k, place), prompt in part.prompts.items():
            example, options = part.examples[place], part.options[place]
            prompts.append(prompt)
            rows.append(example.index)
            evaluated.append(_evaluation_example(len(evaluated), task, example, prompt, level, options, k))
    if not evaluated:
        raise ValueError(
            f"no {split} example is left of {len(names[split])} tasks (skipped: {dict(skipped)}); "
            f"raise {OPTION}.{split}, or list other tasks"
        )
    return EvaluationSet(evaluated, prompts, skipped, rows, available, unknown, sources_known)


Options = tuple[tuple[str, ...], int | None]
"""An example's options and the place of the right one."""


class _EvaluatedPart(NamedTuple):
    """What a task contributes to an evaluation.

    Args:
        examples: Its chosen examples, by their places in the task.
        options: Their options.
        prompts: Prompts of those that are evaluated, by number of demonstrations and place.
        reasons: Why each of the others is skipped.
        available: Number of the task's rows that could be evaluated.
        unknown: Unknown tokens in the prompts.
    """

    examples: Mapping[int, Example]
    options: Mapping[int, Options]
    prompts: Mapping[tuple[int, int], Prompt]
    reasons: list[str]
    available: int
    unknown: UnknownTokens


def _evaluated_part(
    preparation: Preparation,
    task: Task,
    of_task: Iterable[Example],
    places: Sequence[int],
    ranking: OptionRanking | None,
    shots: Sequence[int],
) -> _EvaluatedPart:
    """Render the examples of a task at some places; arguments as of ``read_evaluation``."""
    labels = _labels(of_task, ranking)
    examples, others = _at_places(task, of_task, places, labels, ranking)
    options = {place: options_of(example, labels) for place, example in examples.items()}
    problems = {place: _problem(task, examples[place], options[place], ranking) for place in places}
    rendered = {
        (k, place): _prompt(preparation, task, examples[place], k)
        for k, place in product(shots, [place for place in places if not problems[place]])
    }
    ranked = {place for place in places if ranking is not None and options[place][0]}
    texts = [options[place][0] if place in ranked else examples[place].targets for _, place in rendered]
    lost = dict(zip(rendered, lost_text(preparation, list(rendered.values()), texts), strict=True))
    for (_, place), (*_, equal) in lost.items():
        if equal and place in ranked:
            problems[place] = equal_options_reason(task.name)
    usable = others.union(examples[place].index for place in places if not problems[place])
    return _EvaluatedPart(
        examples,
        options,
        {(k, place): prompt for (k, place), prompt in rendered.items() if not problems[place]},
        reasons=[reason for place in places if (reason := problems[place])],
        available=len(usable),
        unknown=total([counts for (_, place), counts in lost.items() if not problems[place]]),
    )


def _labels(examples: Iterable[Example], ranking: OptionRanking | None) -> tuple[str, ...]:
    """The labels of a classification task that lists no options, where they are ranked."""
    if ranking is None or not ranking.labels:
        return ()
    return label_options([example.targets for example in examples if not example.skipped], most=ranking.labels)


def _at_places(
    task: Task,
    examples: Iterable[Example],
    places: Collection[int],
    labels: Sequence[str],
    ranking: OptionRanking | None,
) -> tuple[dict[int, Example], set[int]]:
    """The examples at some places, and the rows of other examples that could be evaluated.

    All templates of a large dataset do not fit into memory, so that only these examples are kept.
    """
    kept, others, wanted = {}, set(), frozenset(places)
    for place, example in enumerate(examples):
        if place in wanted:
            kept[place] = example
        elif not _problem(task, example, options_of(example, labels), ranking):
            others.add(example.index)
    return kept, others


def _problem(task: Task, example: Example, options: Options, ranking: OptionRanking | None) -> str | None:
    """The reason why an example cannot be evaluated; None if it can."""
    if reason := skip_reason(task, example):
        return reason
    return ranking_problem(*options) if ranking and options[0] else None


def _prompt(preparation: Preparation, task: Task, example: Example, shots: int) -> Prompt:
    if shots and isinstance(preparation, FewShotPreparation):
        return preparation.few_shot_prompt(task, example, shots)
    return preparation.render(task, example)


def _evaluation_example(
    number: int, task: Task, example: Example, prompt: Prompt, level: Level, options: Options, shots: int
) -> EvaluationExample:
    return EvaluationExample(
        number=number,
        task=task.name,
        category=task.category,
        level=level,
        id=example.id,
        source=prompt.source,
        references=example.targets,
        options=options[0],
        answer=options[1],
        benchmark=task.benchmark,
        parent=task.parent,
        metric=task.metric,
        shots=shots,
        match=task.match,
        answer_pattern=task.answer_pattern,
    )
