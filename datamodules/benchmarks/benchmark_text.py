"""Reader of another benchmark's examples as plain text, to pretrain models from random weights."""

import hashlib
from collections.abc import Iterator, Mapping

from ..rendering.pretraining_objectives import TextObjective
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .own_data.file_tasks import as_benchmark
from .pretraining import text_task

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same examples become other texts."""


class BenchmarkText(Benchmark):
    """Reads a benchmark's examples as plain text without prompts, to pretrain a model from random weights.

    The definition of a task is one document, and each example is another: its input, a line break and its first target.
    Only tasks of `split` are read. With the default, a model never sees the text of tasks that are only evaluated. Of a
    task that trains and is evaluated, all instances are read.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        split: Split of the benchmark whose tasks are read: ``train``, ``validation`` or ``test``. All become training
            tasks.
        objective: Pre-training objective of an encoder-decoder model: ``SpanCorruption`` or
            ``PrefixLanguageModelling``. None for a decoder-only model, which is trained on the whole text.
    """

    name = "benchmark_text"

    def __init__(
        self, benchmark: Benchmark | str, split: Split = "train", objective: TextObjective | None = None
    ) -> None:
        self.benchmark, self.split, self.text_objective = as_benchmark(benchmark), split, objective

    def task_names(self, split: Split) -> list[str]:
        """Return the names of the tasks in the benchmark's split, all as training tasks."""
        return self.benchmark.task_names(self.split) if split == "train" else []

    def task(self, name: str) -> Task:
        """Return a task without an instruction, in the category "Pre-training"."""
        return text_task(self.name, self.benchmark.task(name).name)

    def examples(self, name: str) -> Iterator[Example]:
        """Yield the task's definition as a document, if it has one, then a document for each example."""
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
        """Return the `objective` argument, for every task; None if the whole text is trained."""
        return self.text_objective

    def left_out(self) -> Mapping[str, str]:
        """Return the datasets that the benchmark leaves out, with the reason for each."""
        return self.benchmark.left_out()

    def unread_lines(self) -> list[str]:
        """Return the benchmark's lines about files and columns that no task reads."""
        return self.benchmark.unread_lines()

    def fingerprint(self, name: str) -> str:
        """Return the SHA-256 of this reader's version and the task's fingerprint in the benchmark."""
        header = f"{self.name} {READER_VERSION} {self.benchmark.fingerprint(name)}"
        return hashlib.sha256(header.encode()).hexdigest()
