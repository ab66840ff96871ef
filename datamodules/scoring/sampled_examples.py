"""Examples to sample responses for: chosen and rendered as ``ScorerDataModule`` does, which trains on the samples."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal, NamedTuple, get_args

from ..benchmarks import Benchmark, Split
from ..benchmarks.own_data.file_tasks import as_benchmark
from ..benchmarks.shared_sources import names_by_split
from ..messages import nearest
from ..rendering.demonstrations import DEMONSTRATION_STREAM, choose_demonstrations, with_demonstrations
from ..rendering.prompts import OptImlPrompt, PromptForm, rendering_rng
from ..rendering.skipped_examples import skip_reason
from ..schema import Example, Task
from ..splits import InstanceSplit, answered_texts, choose_prompts, prompt_keys

Part = Literal["train", "validation", "test"]

HAS_OPTIONS = "has options (option_examples is false)"
"""Reason for which an example is skipped if its samples would not be trained on."""

SPARE = 8
"""Number of spare demonstrations, which replace those with the same input as the example."""


class SampledPrompt(NamedTuple):
    """Example to sample responses for, with its prompt.

    Args:
        task: Task of the example.
        example: The example.
        source: Text of the prompt that the language model reads.
    """

    task: Task
    example: Example
    source: str


@dataclass(frozen=True)
class SampledExamples:
    """Chooses the examples of a benchmark to sample responses for, and renders their prompts.

    `prompt`, `seed` and the five settings from `train_examples` to `held_out_share` must be equal to those of the
    ``ScorerDataModule`` that trains on the samples, so that both choose the same examples and render the same prompts.

    Args:
        benchmark: The benchmark (a class and its arguments), or the path or hub name of your own data.
        prompt: Format in which an example becomes a prompt.
        parts: Instances of a task to sample for: ``train``, ``validation`` and ``test``, or some of these.
        tasks: Names of the tasks; if empty, all tasks of the splits in `parts`.
        train_examples: Maximum number of training examples of a task.
        every_prompt: Whether every template of a row gives a training example; if false, one template is drawn.
        validation_examples: Number of validation examples of a task.
        test_examples: Number of test examples of a task.
        held_out_share: Largest share of a training task's examples that is held out for test, and again for validation;
            null for no limit.
        seed: Seed of renderings and of the choice of instances.
        shots: Number of demonstrations in each prompt. All examples of a task (and template) share them. They are
            training instances, or those of an evaluated task that are not in its test and validation parts.
        demonstrations: Another benchmark to read demonstrations from, if this one has too few instances; null for
            none.
        separator: Text between two examples of a prompt.
        option_examples: Whether to sample for examples with options as well. By default a scorer does not train on
            these samples (``augmentation.option_samples``).
    """

    benchmark: Benchmark | str
    prompt: PromptForm = OptImlPrompt()  # noqa: RUF009 - frozen
    parts: Sequence[Part] = ("train", "validation", "test")
    tasks: Sequence[str] = ()
    train_examples: int = 500_000
    every_prompt: bool = False
    validation_examples: int = 10
    test_examples: int = 100
    held_out_share: float | None = None
    seed: int = 0
    shots: int = 0
    demonstrations: Benchmark | str | None = None
    separator: str = "\n\n"
    option_examples: bool = True

    def __post_init__(self) -> None:
        for name in ("train_examples", "validation_examples", "test_examples", "shots"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"examples.{name} must be at least 0, got {value}")
        if not self.parts or not {*self.parts} <= {*get_args(Part)}:
            raise ValueError(f"examples.parts must be some of {list(get_args(Part))}, got {list(self.parts)}")

    @cached_property
    def reader(self) -> Benchmark:
        """The benchmark, also if it was given as a path."""
        return as_benchmark(self.benchmark)

    def prompts(self, skipped: Counter[str] | None = None) -> Iterator[SampledPrompt]:
        """Yield the examples and their prompts in a fixed order.

        Args:
            skipped: Counter in which examples that are not sampled are counted by reason; None counts nothing.

        Raises:
            ValueError: A named task is in none of the splits, or a task has too few demonstrations.
        """
        splits, _ = names_by_split(self.reader)
        splits["validation"] = splits["validation"] or splits["train"]
        names = list(dict.fromkeys(name for part in self.parts for name in splits[part]))
        if unknown := [name for name in self.tasks if name not in names]:
            raise ValueError(
                f"task {unknown[0]!r} is in none of the splits {list(self.parts)}, which hold {len(names)}; "
                f"{nearest(unknown[0], names)}"
            )
        for name in self.tasks or names:
            task = self.reader.task(name)
            examples = list(self.reader.examples(name))
            instances = self._instances(name, examples, splits)
            pool = self._pool(name, examples, instances)
            for place in sorted(place for part in set(self.parts) for place in getattr(instances, part)):
                example = examples[place]
                if reason := skip_reason(task, example) or self._left_out(example):
                    if skipped is not None:
                        skipped[reason] += 1
                    continue
                yield SampledPrompt(task, example, self._source(task, example, pool))

    def _left_out(self, example: Example) -> str | None:
        """Return the reason for not sampling a usable example; None if it is sampled."""
        return HAS_OPTIONS if example.options and not self.option_examples else None

    def _source(self, task: Task, example: Example, pool: Sequence[Example]) -> str:
        """Return the prompt of an example, with the demonstrations of its task."""

        def generator() -> Random:
            return rendering_rng(self.seed, task.name, example.id)

        if not self.shots:
            return self.prompt(task, example, generator()).source
        rng = rendering_rng(self.seed, task.name, f"demonstrations {example.template}", DEMONSTRATION_STREAM)
        like = Example(task.name, "", -1, "", (), template=example.template)  # of no row: all prompts get the same ones
        candidates = choose_demonstrations(pool, like, self.shots + SPARE, rng)
        drawn = [one for one in candidates if one.input.strip() != example.input.strip()][: self.shots]
        if len(drawn) < self.shots:
            raise ValueError(
                f"task {task.name} has {len(drawn)} demonstrations, and shots = {self.shots}: name a benchmark to "
                "read them from (demonstrations), or set fewer shots"
            )
        return with_demonstrations(self.prompt, task, example, drawn, generator, self.separator).source

    def _pool(self, name: str, examples: Sequence[Example], instances: InstanceSplit) -> list[Example]:
        """Return the examples of a task that can be demonstrations: none is held out, or has a held-out text."""
        if not self.shots:
            return []
        if self.demonstrations is not None:
            reader = as_benchmark(self.demonstrations)
            task, pool = reader.task(name), list(reader.examples(name))
        else:
            task, held_out = self.reader.task(name), {*instances.validation, *instances.test}
            places = instances.train or [place for place in range(len(examples)) if place not in held_out]
            pool = [examples[place] for place in places]
        evaluated = (examples[place] for place in (*instances.validation, *instances.test))
        texts = {text for example in evaluated for text in answered_texts(example)}
        return [e for e in pool if skip_reason(task, e) is None and texts.isdisjoint(answered_texts(e))]

    def _instances(
        self, name: str, examples: Sequence[Example], splits: Mapping[Split, Sequence[str]]
    ) -> InstanceSplit:
        return choose_prompts(
            name,
            prompt_keys(examples),
            trained=name in splits["train"],
            validation=self.validation_examples if name in splits["validation"] else 0,
            test=self.test_examples if name in splits["test"] else 0,
            limit=self.train_examples,
            every_prompt=self.every_prompt,
            held_out_share=self.held_out_share,
            seed=self.seed,
        )
