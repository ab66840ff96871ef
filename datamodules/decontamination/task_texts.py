"""The texts of the examples that a run would train on, and of those it would be evaluated on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..benchmarks import Benchmark, Split
from ..rendering.reading import Reread
from ..splits import Instances, choose_prompts
from .overlap import Document


@dataclass(frozen=True)
class TaskTexts:
    """Inputs and references by task, the instances dealt as they are for training.

    Instructions are left out: all examples of a task share them, and a shared instruction is no leak. An example of an
    instance-level benchmark brings its own, and is read whole.

    Args:
        benchmark: Where tasks and examples come from.
        instances: How many instances train, validate and test.
        seed: Decides which instances train.
    """

    benchmark: Benchmark
    instances: Instances
    seed: int

    @cached_property
    def names(self) -> dict[Split, list[str]]:
        splits: tuple[Split, ...] = ("train", "validation", "test")
        names = {split: self.benchmark.task_names(split) for split in splits}
        names["validation"] = names["validation"] or names["train"]
        return names

    @property
    def train_tasks(self) -> list[str]:
        return self.names["train"]

    @property
    def evaluation_tasks(self) -> list[str]:
        return list(dict.fromkeys([*self.names["validation"], *self.names["test"]]))

    def trained(self, name: str) -> Iterator[Document]:
        """The training examples of a task."""
        return self._documents(name, train=True)

    def evaluated(self, name: str) -> Iterator[Document]:
        """The validation and test examples of a task."""
        return self._documents(name, train=False)

    def _documents(self, name: str, *, train: bool) -> Iterator[Document]:
        examples = Reread(lambda: self.benchmark.examples(name))
        rows = np.fromiter((example.index for example in examples), dtype=np.int64)
        dealt = choose_prompts(
            name,
            rows,
            trained=name in self.names["train"],
            validation=self.instances.validation if name in self.names["validation"] else 0,
            test=self.instances.test if name in self.names["test"] else 0,
            limit=self.instances.most(name),
            validation_prompts=self.instances.validation_prompts,
            every_prompt=self.instances.every_prompt,
            seed=self.seed,
        )
        for example in examples.at(dealt.train if train else [*dealt.validation, *dealt.test]):
            yield Document(example.id, (example.input, *example.targets))
