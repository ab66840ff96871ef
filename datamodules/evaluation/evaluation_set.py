"""The evaluation set of a stage (validation or test): held-out examples, with prompts and options."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from math import ceil
from typing import NamedTuple

from ..benchmarks import Split
from ..messages import counted, some
from ..rendering.example_cache import ExampleCache
from ..rendering.skipped_examples import skip_reason
from ..rendering.unknown_tokens import UnknownTokens
from ..schema import EvaluationExample, Example, Level, Prompt, Task
from ..splits import OPTION, generalization_level
from ..storage.preparation import Preparation
from ..tracked_files import noting
from .few_shot import FewShotPreparation
from .lossy_tokenization import equal_options_reason, lost_text, total
from .options import OptionRanking, label_options, options_of, ranking_problem


class EvaluationSet(NamedTuple):
    """The examples that validation or test evaluates, with their prompts, in the same order on every replica.

    Args:
        examples: The evaluated examples; ``examples[i].number == i``. An instance that is evaluated at several numbers
            of shots is several examples.
        prompts: Prompt of each example.
        skipped: Number of examples that cannot be scored, by reason.
        rows: Row of its task's file that each example comes from (``Example.index``).
        available: Number of rows of each task's file that can be evaluated, by task.
        unknown: Unknown tokens in the evaluated examples, by task.
        sources_known: Whether ``tracked_files`` recorded the data files of every task.
        empty: Tasks of which no row is left for this stage; not stored, a run prints them when it reads the data files.
    """

    examples: list[EvaluationExample]
    prompts: list[Prompt]
    skipped: Mapping[str, int]
    rows: Sequence[int] = ()
    available: Mapping[str, int] | None = None
    unknown: Mapping[str, UnknownTokens] | None = None
    sources_known: bool = True
    empty: Sequence[str] = ()

    def select(self, *, options: bool) -> "EvaluationSet":
        """Return only the examples with options to rank (True), or only the others (False); numbers are kept."""
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
    """Read the held-out instances of a split's tasks and render their prompts; count skipped examples by reason.

    Args:
        preparation: Settings of rendering; a ``FewShotPreparation`` unless `shots` is (0,).
        names: Names of the tasks of each split.
        split: The split to evaluate: ``validation`` or ``test``.
        trained: The training tasks, from which each evaluated task's level of generalization follows.
        ranking: Settings of ranking; an example whose options cannot be ranked is then skipped. None for generation.
        shots: Numbers of demonstrations; every instance is evaluated at each of them.

    Raises:
        ValueError: No example can be evaluated.
    """
    trained_names = {task.name for task in trained}
    evaluated: list[EvaluationExample] = []
    prompts, rows, skipped, available, unknown = [], [], Counter[str](), {}, {}
    too_small: list[str] = []
    empty: list[str] = []
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
        if instances.reduced and not places:
            too_small.append(f"{name} ({instances.reduced})")
        if not places:
            empty.append(name)
        rendered = _render_task(preparation, task, of_task, places, ranking, shots)
        level = task.level or generalization_level(task, trained)
        available[name], unknown[name] = rendered.available, rendered.unknown
        skipped.update(rendered.reasons)
        for (k, place), prompt in rendered.prompts.items():
            example, options = rendered.examples[place], rendered.options[place]
            prompts.append(prompt)
            rows.append(example.index)
            evaluated.append(_evaluation_example(len(evaluated), task, example, prompt, level, options, k))
    if not evaluated:
        raise ValueError(
            _nothing_left(split, len(names[split]), skipped, too_small, preparation.instances.held_out_share)
        )
    return EvaluationSet(evaluated, prompts, skipped, rows, available, unknown, sources_known, empty)


def _nothing_left(
    split: Split, tasks: int, skipped: Mapping[str, int], too_small: Sequence[str], share: float | None
) -> str:
    """Return the error message for a split without examples.

    Args:
        split: The split.
        tasks: Number of its tasks.
        skipped: Number of examples that cannot be scored, by reason.
        too_small: Training tasks that hold out no example, with the numbers.
        share: Largest share of a training task's examples that it holds out.
    """
    if not tasks:
        return f"the benchmark lists no task in the split {split}: list one there, or evaluate another stage"
    if too_small and share:
        without = f", or set {OPTION}.validation to 0" if split == "validation" else ""
        return (
            f"no {split} example: {some(too_small)}; a training task holds out at most {OPTION}.held_out_share = "
            f"{share:g} of its examples, and needs {ceil(1 / share)} of them to hold out one; give it more{without}"
        )
    reasons = f" (skipped: {', '.join(f'{count} {reason}' for reason, count in skipped.items())})" if skipped else ""
    return (
        f"no {split} example is left of {counted(tasks, 'task')}{reasons}; raise {OPTION}.{split}, or list other tasks"
    )


Options = tuple[tuple[str, ...], int | None]
"""An example's options, and the index of the right one or None."""


class _RenderedTask(NamedTuple):
    """Prompts of a task's held-out examples; an example's place is its index among the task's examples.

    Args:
        examples: Held-out examples, by place.
        options: Their options, by place.
        prompts: Prompts of the examples that can be evaluated, by (number of demonstrations, place).
        reasons: Reason of each skipped example.
        available: Number of the task's rows that could be evaluated.
        unknown: Unknown tokens in the prompts.
    """

    examples: Mapping[int, Example]
    options: Mapping[int, Options]
    prompts: Mapping[tuple[int, int], Prompt]
    reasons: list[str]
    available: int
    unknown: UnknownTokens


def _render_task(
    preparation: Preparation,
    task: Task,
    of_task: Iterable[Example],
    places: Sequence[int],
    ranking: OptionRanking | None,
    shots: Sequence[int],
) -> _RenderedTask:
    """Render the examples of a task at some places; the other arguments are those of ``read_evaluation``."""
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
    for (_, place), (_, equal) in lost.items():
        if equal and place in ranked:
            problems[place] = equal_options_reason(task.name)
    usable = others.union(examples[place].index for place in places if not problems[place])
    return _RenderedTask(
        examples,
        options,
        {(k, place): prompt for (k, place), prompt in rendered.items() if not problems[place]},
        reasons=[reason for place in places if (reason := problems[place])],
        available=len(usable),
        unknown=total([counts for (_, place), (counts, _) in lost.items() if not problems[place]]),
    )


def _labels(examples: Iterable[Example], ranking: OptionRanking | None) -> tuple[str, ...]:
    """Return the labels of a classification task that lists no options, if labels are ranked; () otherwise."""
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
    """Return the examples at some places, and the rows of other examples that could be evaluated.

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
    """Return the reason why an example cannot be evaluated; None if it can."""
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
