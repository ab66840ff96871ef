"""The interface of all benchmark readers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Literal

from ..rendering.text_objectives import TextObjective
from ..schema import Example, Task

Split = Literal["train", "validation", "test"]


class Benchmark(ABC):
    """Reads a benchmark family: tasks and examples from its files as published.

    An abstract class rather than a protocol, so that a YAML finds subclasses by their short names.
    """

    name: str

    @abstractmethod
    def task_names(self, split: Split) -> list[str]:
        """Names of the split's tasks; empty where the benchmark has no such split."""

    @abstractmethod
    def task(self, name: str) -> Task:
        """Metadata of one task."""

    @abstractmethod
    def examples(self, name: str) -> Iterator[Example]:
        """All examples of one task, in the order of its file."""

    def demonstration_pool(self, name: str) -> list[Example] | None:
        """Examples for demonstrations only, apart from those of ``examples``; None if there are none."""
        return None

    def objective(self, name: str) -> TextObjective | None:
        """Objective of an encoder-decoder model on a task whose targets are plain text; None for other tasks."""
        return None

    def left_out(self) -> Mapping[str, str]:
        """Datasets of the collection that are no task, with the reason; empty for most collections."""
        return {}

    def unread_lines(self) -> list[str]:
        """Data files of the benchmark's folder that no task reads, by kind, and columns that are not read."""
        return []

    @abstractmethod
    def fingerprint(self, name: str) -> str:
        """A digest that changes with the task's content and with the way it is read.

        A reader that opens files by itself notes them (``noted_paths.note``), so that a prepared run starts without
        them. The functions of ``data_files`` and ``file_digests`` do so.
        """
