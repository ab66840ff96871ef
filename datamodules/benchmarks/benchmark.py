"""The base class of all benchmark readers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Literal

from ..rendering.pretraining_objectives import TextObjective
from ..schema import Example, Task

Split = Literal["train", "validation", "test"]
"""Split of a benchmark: tasks that train, that are evaluated during training, and that are tested."""


class Benchmark(ABC):
    """Base class of benchmark readers: lists a benchmark's tasks, and reads their examples from its published files.

    Pass a reader to a datamodule as its `benchmark`. A new reader implements the abstract methods below; the others
    have defaults that fit most benchmarks.

    Attributes:
        name: Name of the benchmark in mixtures and reports, e.g. ``"super_natural_instructions"``.
    """

    # An abstract class, not a Protocol: jsonargparse finds its subclasses by their short names in a YAML.
    name: str

    @abstractmethod
    def task_names(self, split: Split) -> list[str]:
        """Return the names of the tasks in a split; an empty list if the benchmark has no such split.

        A task whose name is in two splits is evaluated on instances that are not trained.
        """

    @abstractmethod
    def task(self, name: str) -> Task:
        """Return the metadata of a task: category, instruction, metric and so on, without its examples."""

    @abstractmethod
    def examples(self, name: str) -> Iterator[Example]:
        """Yield all examples of a task in the order of its file, including unusable ones (``Example.skipped``)."""

    def demonstration_pool(self, name: str) -> list[Example] | None:
        """Return examples that serve only as demonstrations; None if demonstrations are taken from ``examples``."""
        return None

    def objective(self, name: str) -> TextObjective | None:
        """Return the pre-training objective, e.g. span corruption, that divides a task's text into source and target.

        None for tasks whose examples have inputs, and for decoder-only models, which are trained on the text itself.
        """
        return None

    def left_out(self) -> Mapping[str, str]:
        """Return the datasets of the collection that are not read as tasks, with the reason for each; {} for most."""
        return {}

    def unread_lines(self) -> list[str]:
        """Return sentences about data files and columns that no task reads, so that a misspelt name is noticed.

        Files are counted by type and not listed. The list is empty if there are none.
        """
        return []

    @abstractmethod
    def fingerprint(self, name: str) -> str:
        """Return a digest of a task's files and of the settings by which they are read.

        Tokenized examples on disk are reused while it is equal. A reader that opens files by itself must call
        ``tracked_files.note`` for each of them, so that changes are noticed and a prepared run can start without the
        files. The functions of ``data_files`` and ``file_digests`` do so.
        """
