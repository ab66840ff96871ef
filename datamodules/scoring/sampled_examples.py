"""Which examples language models answer for the scorer, chosen and rendered as the scorer's data module does."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ..benchmarks import Benchmark, Split
from ..rendering.prompts import OptImlPrompt, PromptForm, rendering_rng
from ..rendering.tokenization import refusal
from ..schema import Example, Task
from ..splits import choose_instances

Part = Literal["train", "validation", "test"]


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
        validation_examples: As the datamodule's.
        test_examples: As the datamodule's.
        seed: As the datamodule's.
    """

    benchmark: Benchmark
    prompt: PromptForm = OptImlPrompt()  # noqa: RUF009 - frozen
    parts: Sequence[Part] = get_args(Part)
    tasks: Sequence[str] = ()
    train_examples: int = 500_000
    validation_examples: int = 10
    test_examples: int = 100
    seed: int = 0

    def prompts(self, refused: Counter[str] | None = None) -> Iterator[SampledPrompt]:
        """Rendered examples in a fixed order; those that cannot be rendered are counted by reason in `refused`.

        Raises:
            ValueError: A task is named that is in none of the splits.
        """
        splits: dict[Split, list[str]] = {split: self.benchmark.task_names(split) for split in get_args(Part)}
        splits["validation"] = splits["validation"] or splits["train"]
        known = list(dict.fromkeys(name for part in self.parts for name in splits[part]))
        if unknown := [name for name in self.tasks if name not in known]:
            raise ValueError(
                f"task {unknown[0]!r} is in none of the splits {list(self.parts)}, which hold {len(known)}"
            )
        for name in self.tasks or known:
            task = self.benchmark.task(name)
            examples = list(self.benchmark.examples(name))
            for place in self._places(name, len(examples), splits):
                example = examples[place]
                if reason := refusal(task, example):
                    if refused is not None:
                        refused[reason] += 1
                    continue
                rendered = self.prompt(task, example, rendering_rng(self.seed, task.name, example.id))
                yield SampledPrompt(task, example, rendered.source)

    def _places(self, name: str, total: int, splits: Mapping[Split, Sequence[str]]) -> list[int]:
        chosen = choose_instances(
            name,
            total,
            trained=name in splits["train"],
            validation=self.validation_examples if name in splits["validation"] else 0,
            test=self.test_examples if name in splits["test"] else 0,
            limit=self.train_examples,
            seed=self.seed,
        )
        return sorted(place for part in set(self.parts) for place in getattr(chosen, part))
