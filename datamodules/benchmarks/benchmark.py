"""What every reader of a benchmark family offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

from ..schema import Example, Task

Split = Literal["train", "validation", "test"]


class Benchmark(ABC):
    """A benchmark family: its own upstream files in, tasks and examples out.

    An abstract class rather than a protocol, so that a YAML finds subclasses by their short names.
    """

    name: str

    @abstractmethod
    def task_names(self, split: Split) -> list[str]:
        """Names of the split's tasks; none where a benchmark defines no such split."""

    @abstractmethod
    def task(self, name: str) -> Task:
        """What is known of one task."""

    @abstractmethod
    def examples(self, name: str) -> Iterator[Example]:
        """All instances of one task, in the order of its file."""

    def solved_examples(self, name: str) -> list[Example] | None:
        """Examples of a task beside those of ``examples``, to be shown and never asked; None where there are none."""
        return None

    @abstractmethod
    def fingerprint(self, name: str) -> str:
        """A digest that changes whenever the task's content, or the way it is read, changes."""
