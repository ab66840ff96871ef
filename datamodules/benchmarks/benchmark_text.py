"""The text of another benchmark's examples as pre-training text, for models that are pretrained from random weights."""

import hashlib
from collections.abc import Iterator, Mapping

from ..rendering.text_objectives import TextObjective
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .file_tasks import as_benchmark
from .pretraining import text_task

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same examples become other texts."""


class BenchmarkText(Benchmark):
    """Reads the tasks of a benchmark as text: the definition of a task, and the input and the first target of examples.

    A model that is pretrained on the training tasks has not seen the text of tasks that only evaluate; of a task that
    does both, all instances are text.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        split: The split whose tasks are read; all of them are training tasks here.
        objective: As of ``PretrainingText``.
    """

    name = "benchmark_text"

    def __init__(
        self, benchmark: Benchmark | str, split: Split = "train", objective: TextObjective | None = None
    ) -> None:
        self.benchmark, self.split, self.text_objective = as_benchmark(benchmark), split, objective

    def task_names(self, split: Split) -> list[str]:
        """The tasks of the benchmark's split, as training tasks."""
        return self.benchmark.task_names(self.split) if split == "train" else []

    def task(self, name: str) -> Task:
        """A task without instructions, in the category "Pre-training"."""
        return text_task(self.name, self.benchmark.task(name).name)

    def examples(self, name: str) -> Iterator[Example]:
        """The task's definition, if it has one, then a document for each example: input, line break, target."""
        task = self.benchmark.task(name)
        defined = bool(task.definition.strip())
        if defined:
            yield Example(name, "definition", 0, "", (task.definition,))
        for example in self.benchmark.examples(name):
            lines = [text for text in (example.input, *example.targets[:1]) if text.strip()]
            skipped = example.skipped or ("" if lines else "no text")
            targets = () if skipped else ("\n".join(lines),)
            yield Example(name, example.id, example.index + defined, "", targets, skipped=skipped)

    def objective(self, name: str) -> TextObjective | None:
        """The objective of all documents."""
        return self.text_objective

    def left_out(self) -> Mapping[str, str]:
        """As in the benchmark."""
        return self.benchmark.left_out()

    def unread_lines(self) -> list[str]:
        """As in the benchmark."""
        return self.benchmark.unread_lines()

    def fingerprint(self, name: str) -> str:
        """SHA-256 of reader version and the task's fingerprint."""
        header = f"{self.name} {READER_VERSION} {self.benchmark.fingerprint(name)}"
        return hashlib.sha256(header.encode()).hexdigest()
