"""Which examples of a stage are asked, in which words, and what else is known of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from ..benchmarks import Split
from ..rendering.tokenization import skip_reason
from ..schema import EvaluationExample, Example, Level, Prompt, Task
from ..splits import generalization_level
from ..storage.preparation import Preparation
from .few_shot import ShotPreparation
from .options import OptionRanking, label_options, options_of, ranking_problem


class EvaluationSet(NamedTuple):
    """The examples of one stage, in a fixed order, the same on every replica.

    Args:
        examples: What is asked; ``examples[i].number == i``.
        prompts: The rendered form of each.
        skipped: Examples that cannot be scored, by reason.
        rows: The row of its task's file that each example shows (``Example.index``).
        available: How many rows of each task's file could be asked.
    """

    examples: list[EvaluationExample]
    prompts: list[Prompt]
    skipped: Mapping[str, int]
    rows: Sequence[int] = ()
    available: Mapping[str, int] | None = None

    def part(self, *, options: bool) -> "EvaluationSet":
        """The examples with options, or those without; their numbers stay."""
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
    """Render the held-out instances of a split's tasks; every one is asked, or counted by reason.

    With `ranking`, an example whose options cannot be ranked is counted, too. Every instance is asked at each number of
    `shots`; demonstrations are those of a ``ShotPreparation``.

    Raises:
        ValueError: Nothing is left to evaluate.
    """
    trained_names = {task.name for task in trained}
    trained_categories = {task.category for task in trained}
    asked: list[EvaluationExample] = []
    prompts, rows, skipped, available = [], [], Counter[str](), {}
    for name in names[split]:
        task = preparation.benchmark.task(name)
        examples = list(preparation.benchmark.examples(name))
        chosen = preparation.split_instances(
            name,
            len(examples),
            trained=name in trained_names,
            validated=name in names["validation"],
            tested=name in names["test"],
            rows=[example.index for example in examples],
        )
        places = chosen.test if split == "test" else chosen.validation
        level = task.level or generalization_level(task, trained_names, trained_categories)
        offered = _options(examples, ranking)
        problems = [_problem(task, *each, ranking) for each in zip(examples, offered, strict=True)]
        available[name] = len({e.index for e, problem in zip(examples, problems, strict=True) if not problem})
        skipped.update(reason for place in places if (reason := problems[place]))
        for k, place in product(shots, [place for place in places if not problems[place]]):
            prompt = _rendered(preparation, task, examples[place], k)
            prompts.append(prompt)
            rows.append(examples[place].index)
            asked.append(_evaluated(len(asked), task, examples[place], prompt, level, offered[place], k))
    if not asked:
        raise ValueError(
            f"no {split} example is left of {len(names[split])} tasks (skipped: {dict(skipped)}); "
            f"raise instances.{split}, or list other tasks"
        )
    return EvaluationSet(asked, prompts, skipped, rows, available)


Options = tuple[tuple[str, ...], int | None]
"""Options of an example and the place of the right one."""


def _options(examples: Sequence[Example], ranking: OptionRanking | None) -> list[Options]:
    good = [example.targets for example in examples if not example.skipped]
    labels = label_options(good, most=ranking.labels) if ranking else ()
    return [options_of(example, labels) for example in examples]


def _problem(task: Task, example: Example, offered: Options, ranking: OptionRanking | None) -> str | None:
    """Why an example cannot be asked, or None where it can."""
    found = skip_reason(task, example)
    return ranking_problem(*offered) if ranking and offered[0] and not found else found


def _rendered(preparation: Preparation, task: Task, example: Example, shots: int) -> Prompt:
    if shots and isinstance(preparation, ShotPreparation):
        return preparation.evaluated_after(task, example, shots)
    return preparation.render(task, example)


def _evaluated(
    number: int, task: Task, example: Example, prompt: Prompt, level: Level, offered: Options, shots: int
) -> EvaluationExample:
    return EvaluationExample(
        number=number,
        task=task.name,
        category=task.category,
        level=level,
        id=example.id,
        source=prompt.source,
        references=example.targets,
        options=offered[0],
        answer=offered[1],
        benchmark=task.benchmark,
        parent=task.parent,
        metric=task.metric,
        shots=shots,
    )
