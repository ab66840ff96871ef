"""Texts of a run's training and evaluation examples, task by task, for the search for shared n-grams."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..benchmarks import Benchmark, Split
from ..benchmarks.shared_sources import names_by_split
from ..rendering.example_cache import ExampleCache
from ..splits import Instances, choose_prompts, prompt_keys
from .overlap import Document


@dataclass(frozen=True)
class TaskTexts:
    """Reads the texts of a run's training and evaluation examples, to search them for text that both share.

    The texts are inputs and references. The definition, which all examples of a task share, is left out: its overlap
    gives no answer away. If each example has its own instruction, the instruction is part of the input.

    Args:
        benchmark: Source of tasks and examples.
        instances: Largest number of instances of a task in training, validation and test.
        seed: The run's seed, with which it chooses these instances.
    """

    benchmark: Benchmark
    instances: Instances
    seed: int

    @cached_property
    def names(self) -> dict[Split, list[str]]:
        """Names of the tasks of each split; without validation tasks, those are the training tasks."""
        names, _ = names_by_split(self.benchmark)
        return {**names, "validation": names["validation"] or names["train"]}

    @property
    def train_tasks(self) -> list[str]:
        """Names of the training tasks."""
        return self.names["train"]

    @property
    def evaluation_tasks(self) -> list[str]:
        """Names of the validation and test tasks, each once."""
        return list(dict.fromkeys([*self.names["validation"], *self.names["test"]]))

    def training_documents(self, name: str) -> Iterator[Document]:
        """Yield the training examples of a task."""
        return self._documents(name, train=True)

    def evaluation_documents(self, name: str) -> Iterator[Document]:
        """Yield the validation and test examples of a task."""
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
