"""Texts of the training and evaluation examples of a run, task by task."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..benchmarks import Benchmark, Split
from ..benchmarks.shared_sources import split_names
from ..rendering.example_cache import ExampleCache
from ..splits import Instances, choose_prompts, prompt_keys
from .overlap import Document


@dataclass(frozen=True)
class TaskTexts:
    """Inputs and references by task, of the same examples that a run with these counts trains on and evaluates.

    The definition of a task-level benchmark is left out: all examples of a task share it, which is no leak. An
    instance-level example is read with its instructions.

    Args:
        benchmark: Source of tasks and examples.
        instances: Numbers of instances for training, validation and test.
        seed: Decides which instances train.
    """

    benchmark: Benchmark
    instances: Instances
    seed: int

    @cached_property
    def names(self) -> dict[Split, list[str]]:
        """Names of the tasks of each split; without validation tasks, the training tasks validate."""
        names, _ = split_names(self.benchmark)
        return {**names, "validation": names["validation"] or names["train"]}

    @property
    def train_tasks(self) -> list[str]:
        return self.names["train"]

    @property
    def evaluation_tasks(self) -> list[str]:
        return list(dict.fromkeys([*self.names["validation"], *self.names["test"]]))

    def training_documents(self, name: str) -> Iterator[Document]:
        """The training examples of a task."""
        return self._documents(name, train=True)

    def evaluation_documents(self, name: str) -> Iterator[Document]:
        """The validation and test examples of a task."""
        return self._documents(name, train=False)

    def _documents(self, name: str, *, train: bool) -> Iterator[Document]:
        examples = ExampleCache(lambda: self.benchmark.examples(name))
        places = choose_prompts(
            name,
            prompt_keys(examples),
            trained=name in self.names["train"],
            **self.instances.held_out(
                name, validated=name in self.names["validation"], tested=name in self.names["test"]
            ),
            held_out_share=self.instances.held_out_share,
            limit=self.instances.train_limit(name),
            validation_prompts=self.instances.validation_prompts,
            every_prompt=self.instances.every_prompt,
            seed=self.seed,
        )
        for example in examples.subset(places.train if train else [*places.validation, *places.test]):
            yield Document(example.id, (example.input, *example.targets))
