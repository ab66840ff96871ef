"""One reader per benchmark family: its own upstream files in, tasks and examples out."""

from collections.abc import Iterator
from typing import Literal, Protocol

from ..schema import Example, Task
from .natural_instructions import NaturalInstructions

Split = Literal["train", "validation", "test"]


class Benchmark(Protocol):
    """What a reader offers; any object with these members can be the datamodule's ``benchmark``."""

    name: str

    def task_names(self, split: Split) -> list[str]:
        """Names of the split's tasks; empty where a benchmark defines no such split."""
        ...

    def task(self, name: str) -> Task:
        """What is known of one task."""
        ...

    def examples(self, name: str) -> Iterator[Example]:
        """All instances of one task, in the order of its file."""
        ...

    def fingerprint(self, name: str) -> str:
        """A digest that changes whenever the task's content, or the way it is read, changes."""
        ...


__all__ = ["Benchmark", "NaturalInstructions", "Split"]
