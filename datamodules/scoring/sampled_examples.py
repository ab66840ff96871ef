"""Which examples language models answer for the scorer, chosen and rendered as the scorer's data module does."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..benchmarks import Benchmark, Split
from ..messages import nearest
from ..rendering.demonstrations import DRAWN, choose, with_demonstrations
from ..rendering.prompts import OptImlPrompt, PromptForm, rendering_rng
from ..rendering.tokenization import skip_reason
from ..schema import Example, Task
from ..splits import InstanceSplit, choose_prompts

Part = Literal["train", "validation", "test"]

SPARE = 8
"""Further solved examples that are drawn, in place of those that ask just what is sampled."""


class SampledPrompt(NamedTuple):
    """What is answered: the example, and the text a model reads."""

    task: Task
    example: Example
    source: str


@dataclass(frozen=True)
class SampledExamples:
    """The examples of a benchmark that are answered, chosen and rendered as ``ScorerDataModule`` does.

    Args:
        benchmark: Reader of the benchmark's files.
        prompt: How instructions are rendered; give the datamodule's.
        parts: Which of a task's instances: those that train, validate or test.
        tasks: Names of the tasks; all of the splits named by `parts` if empty.
        train_examples: As the datamodule's.
        every_prompt: As the datamodule's.
        validation_examples: As the datamodule's.
        test_examples: As the datamodule's.
        seed: As the datamodule's.
        shots: Solved examples that each prompt shows, drawn once for a task (and template) from its training instances;
            of a task that does not train, from the instances that are held out for nothing.
        shown: Where solved examples are read instead, for a benchmark whose parts are read apart: all that it has.
        separator: Between examples.
    """

    benchmark: Benchmark
    prompt: PromptForm = OptImlPrompt()  # noqa: RUF009 - frozen
    parts: Sequence[Part] = get_args(Part)
    tasks: Sequence[str] = ()
    train_examples: int = 500_000
    every_prompt: bool = False
    validation_examples: int = 10
    test_examples: int = 100
    seed: int = 0
    shots: int = 0
    shown: Benchmark | None = None
    separator: str = "\n\n"

    def prompts(self, skipped: Counter[str] | None = None) -> Iterator[SampledPrompt]:
        """Rendered examples in a fixed order; those that cannot be rendered are counted by reason in `skipped`.

        Raises:
            ValueError: A task is named that is in none of the splits, or has too few solved examples to show.
        """
        splits: dict[Split, list[str]] = {split: self.benchmark.task_names(split) for split in get_args(Part)}
        splits["validation"] = splits["validation"] or splits["train"]
        known = list(dict.fromkeys(name for part in self.parts for name in splits[part]))
        if unknown := [name for name in self.tasks if name not in known]:
            raise ValueError(
                f"task {unknown[0]!r} is in none of the splits {list(self.parts)}, which hold {len(known)}; "
                f"{nearest(unknown[0], known)}"
            )
        for name in self.tasks or known:
            task = self.benchmark.task(name)
            examples = list(self.benchmark.examples(name))
            dealt = self._dealt(name, examples, splits)
            pool = self._pool(name, examples, dealt)
            for place in sorted(place for part in set(self.parts) for place in getattr(dealt, part)):
                example = examples[place]
                if reason := skip_reason(task, example):
                    if skipped is not None:
                        skipped[reason] += 1
                    continue
                yield SampledPrompt(task, example, self._source(task, example, pool))

    def _source(self, task: Task, example: Example, pool: Sequence[Example]) -> str:
        """What a model reads: the example, after the solved ones of its task."""

        def generator() -> Random:
            return rendering_rng(self.seed, task.name, example.id)

        if not self.shots:
            return self.prompt(task, example, generator()).source
        rng = rendering_rng(self.seed, task.name, f"demonstrations {example.template}", DRAWN)
        like = Example(task.name, "", -1, "", (), template=example.template)  # of no row: all prompts choose alike
        responses = choose(pool, like, self.shots + SPARE, rng)
        drawn = [one for one in responses if one.input.strip() != example.input.strip()][: self.shots]
        if len(drawn) < self.shots:
            raise ValueError(
                f"task {task.name} has {len(drawn)} solved examples to show, and shots asks for {self.shots}: name the "
                "benchmark that they are read from (shown), or show fewer"
            )
        return with_demonstrations(self.prompt, task, example, drawn, generator, self.separator).source

    def _pool(self, name: str, examples: Sequence[Example], dealt: InstanceSplit) -> list[Example]:
        """Solved examples of a task: none that is held out to be sampled."""
        if not self.shots:
            return []
        if self.shown is not None:
            task = self.shown.task(name)
            found = list(self.shown.examples(name))
        else:
            task, sampled = self.benchmark.task(name), {*dealt.validation, *dealt.test}
            places = dealt.train or [place for place in range(len(examples)) if place not in sampled]
            found = [examples[place] for place in places]
        return [example for example in found if skip_reason(task, example) is None]

    def _dealt(self, name: str, examples: Sequence[Example], splits: Mapping[Split, Sequence[str]]) -> InstanceSplit:
        return choose_prompts(
            name,
            np.array([example.index for example in examples], dtype=np.int64),
            trained=name in splits["train"],
            validation=self.validation_examples if name in splits["validation"] else 0,
            test=self.test_examples if name in splits["test"] else 0,
            limit=self.train_examples,
            every_prompt=self.every_prompt,
            seed=self.seed,
        )
