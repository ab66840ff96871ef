"""The training tasks of a run in the store: their names, preparation, folders and documents."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from ..benchmarks import Split
from ..messages import counted, some
from ..schema import Example
from ..splits import OPTION
from ..tracked_files import noting
from .checksums import read_sealed
from .parallel_preparation import Job, PreparationCounts, prepare_tasks
from .preparation import Preparation
from .store import StoredTask
from .stored_tasks import StoredTasks, open_tasks


class TrainingTasks:
    """Tokenizes the training tasks of a run to disk (the store), and opens the tokenized examples, called documents.

    Args:
        preparation: Settings of rendering and tokenization.
        names: Names of the tasks of each split (``train``, ``validation``, ``test``).
        folders: Names of the tasks' folders in the store, as far as they are known, by task. The name of another
            task's folder is computed from its data files.
    """

    def __init__(
        self, preparation: Preparation, names: Mapping[Split, Sequence[str]], folders: Mapping[str, str] | None = None
    ) -> None:
        self.preparation, self.names = preparation, names
        self._reported: set[str] = set()
        self.sources_known = True
        """Whether ``tracked_files`` recorded the data files of every task whose folder was computed."""
        self._folders = {name: preparation.folder / folder for name, folder in (folders or {}).items()}

    def prepare(self, processes: int, *, verify: bool = False) -> PreparationCounts:
        """Render and tokenize the training tasks that are not on disk yet, and return numbers of tasks and documents.

        Args:
            processes: Number of processes that read, render and tokenize.
            verify: Whether to read all files of the store and compare their checksums, or their sizes alone.
        """
        jobs = [Job(name, **self._held_out(name), verified=verify) for name in self.names["train"]]
        prepared = prepare_tasks(self.preparation, jobs, processes=processes)
        self.open(self.names["train"])  # writes the concatenated arrays
        return prepared

    def open(self, names: Iterable[str]) -> StoredTasks:
        """Open the tokenized examples of some tasks in memory maps, in the order of `names`."""
        return open_tasks([self.folder(name) for name in names], self.preparation.folder)

    def folder(self, name: str) -> Path:
        """Return the folder of a task's tokenized examples.

        The task's data files are read for this, unless the constructor was given the folder's name.
        """
        if name not in self._folders:
            with noting() as read:
                self._folders[name] = self.preparation.task_folder(name, **self._held_out(name))
            self.sources_known &= bool(read)
        return self._folders[name]

    def example_ids(self, name: str, stored: StoredTask, documents: Iterable[int]) -> list[str]:
        """Return the ids of the examples that some documents were made from; the task's data files are read for this.

        Args:
            name: Name of the task.
            stored: The documents of the task.
            documents: Indices into `stored`.
        """
        examples = self.document_examples(name, stored)
        return [examples[document].id for document in documents]

    def document_examples(self, name: str, stored: StoredTask) -> list[Example]:
        """Return the example that each document of a task was made from; the task's data files are read for this."""
        examples = list(self.preparation.training_examples(name, **self._held_out(name)))
        if stored.groups is not None:  # several pairs of one example
            return [examples[group] for group in stored.groups]
        return self.preparation.document_examples(self.preparation.benchmark.task(name), examples)

    def with_documents(self) -> list[str]:
        """Return the names of the training tasks that have documents, or are not prepared yet; report the others.

        Raises:
            ValueError: All instances of a task are held out, or no task has documents; the message has the reasons.
        """
        folders = {name: self.folder(name) for name in self.names["train"]}
        meta = {name: read_sealed(folder) for name, folder in folders.items() if folder.is_dir()}
        empty = [name for name, of in meta.items() if not of["tokens"]]
        reasons = Counter(reason for name in empty for reason in meta[name]["skipped"])
        why = f"{some(empty)} ({', '.join(reason for reason, _ in reasons.most_common())})"
        if held_out := [name for name in empty if not meta[name]["skipped"]]:
            counts = self.preparation.instances.held_out(held_out[0], **self._held_out(held_out[0]))
            raise ValueError(
                f"{counted(len(held_out), 'training task')} without instances beside {counts['test']} for test and "
                f"{counts['validation']} for validation: {some(held_out)}; hold out fewer ({OPTION}.test and "
                ".validation, or test_of and validation_of for a collection; test_examples of adapt and samples), or "
                "take them off the training list"
            )
        if empty and len(empty) == len(folders):
            raise ValueError(f"no training task has an example that could train: {why}")
        if reduced := {name: of["reduced"] for name, of in meta.items() if of["reduced"]}:
            self._report(
                f"{counted(len(reduced), 'small training task')} with fewer held-out instances than {OPTION} sets "
                f"(held_out_share): {some([f'{name} ({of})' for name, of in reduced.items()])}"
            )
        if empty:
            self._report(f"{counted(len(empty), 'training task')} without an example that could train: {why}")
        return [name for name in folders if name not in set(empty)]

    def _report(self, line: str) -> None:
        """Print a line, unless it was printed before."""
        if line not in self._reported:
            self._reported.add(line)
            rank_zero_info(line)

    def _held_out(self, name: str) -> dict[str, bool]:
        return {"validated": name in self.names["validation"], "tested": name in self.names["test"]}
