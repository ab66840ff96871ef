"""Check of a benchmark's files (`crosstask check`): usable and skipped examples, errors, duplicates."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..benchmarks import Benchmark
from ..benchmarks.own_data.file_tasks import FileTasks
from ..benchmarks.shared_sources import names_by_split
from ..messages import counted, some
from ..rendering.skipped_examples import skip_reason
from ..schema import Example, Task

FEW = 10
"""Tasks with fewer usable examples are reported."""


@dataclass
class TaskCheck:
    """Numbers of usable, skipped and repeated examples in a task's files, for `crosstask check`.

    Args:
        name: Name of the task.
        splits: The splits that list the task: ``train``, ``validation``, ``test``.
        examples: Number of examples.
        usable: Number of examples that are not skipped.
        skipped: Number of skipped examples, by reason.
        first: Location of the first skipped example, by reason.
        repeated: Number of usable examples whose input occurs earlier in the task.
        error: Message of the error at which reading stopped; empty if there is none.
    """

    name: str
    splits: tuple[str, ...]
    examples: int = 0
    usable: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    error: str = ""


@dataclass(frozen=True)
class Duplicates:
    """Examples of a test task whose input is also the input of a training example of another task.

    Args:
        task: Name of the test task.
        trained: Names of the training tasks, the one with the most duplicates first.
        count: Number of these examples of the test task.
        first: Id of the first of these examples.
    """

    task: str
    trained: tuple[str, ...]
    count: int
    first: str


@dataclass(frozen=True)
class BenchmarkCheck:
    """Result of `crosstask check`: what a training on a benchmark's files would use, skip or fail at.

    Args:
        tasks: All tasks, in the order of their splits.
        notes: Lines about files that are not read, and about how files are read.
        duplicates: Duplicates of each test task that has any.
        errors: Messages of errors that would stop a training.
    """

    tasks: Sequence[TaskCheck]
    notes: Sequence[str]
    duplicates: Sequence[Duplicates]
    errors: Sequence[str]

    def lines(self) -> list[str]:
        """Return the result as lines of text: counts, skipped examples, warnings, and errors last."""
        counts = Counter(split for task in self.tasks for split in task.splits)
        usable = sum(task.usable for task in self.tasks)
        tasks = ", ".join(f"{count} {split}" for split, count in counts.items())
        head = f"{counted(len(self.tasks), 'task')} ({tasks}); {counted(usable, 'example')} can be used"
        lines = [*([head] if self.tasks else []), *self.notes]
        lines += [*self._skipped_lines(), *self._few_lines()]
        if repeated := {task.name: task.repeated for task in self.tasks if task.repeated}:
            lines.append(
                f"repeated inputs: {counted(sum(repeated.values()), 'example')} with the input of another example of "
                f"{some(sorted(repeated))}; those with the input of an evaluated example do not train"
            )
        lines += [
            f"duplicates: {each.count:,} test examples of {each.task} have the input of a training example of "
            f"{some(each.trained)}, e.g. {each.first}"
            for each in self.duplicates
        ]
        return [*lines, *(f"error: {error}" for error in self.errors)]

    def _skipped_lines(self) -> list[str]:
        lines = []
        for task in self.tasks:
            for reason, count in task.skipped.most_common():
                lines.append(
                    f"skipped: {count:,} of {task.examples:,} in {task.name}, {reason}, first: {task.first[reason]}"
                )
        return lines

    def _few_lines(self) -> list[str]:
        few = [f"{task.name} ({task.usable})" for task in self.tasks if not task.error and task.usable < FEW]
        return [f"fewer than {FEW} usable examples: {some(few)}"] if few else []


def check_benchmark(benchmark: Benchmark) -> BenchmarkCheck:
    """Read all examples of all tasks, and return what would be used, skipped or fail in a training."""
    errors: list[str] = []
    try:
        names, _ = names_by_split(benchmark, benchmark.task)
    except (ValueError, OSError) as error:
        return BenchmarkCheck([], [], [], [str(error)])
    splits: dict[str, list[str]] = {}
    for split, of_split in names.items():
        for name in of_split:
            splits.setdefault(name, []).append(split)
    inputs: dict[bytes, list[str]] = {}
    tasks = [_check_task(benchmark, name, tuple(of_task), inputs) for name, of_task in splits.items()]
    errors += [task.error for task in tasks if task.error]
    if not any("train" in task.splits and task.usable for task in tasks):
        errors.append("no task has an example that can be trained on")
    duplicates = _duplicates(benchmark, tasks, inputs) if any(t.splits == ("test",) for t in tasks) else []
    return BenchmarkCheck(tasks, _notes(benchmark), duplicates, errors)


def _notes(benchmark: Benchmark) -> list[str]:
    try:
        return benchmark.unread_lines()
    except (ValueError, OSError):  # an error of a task's file, which is reported by the task
        return []


def _check_task(benchmark: Benchmark, name: str, splits: tuple[str, ...], inputs: dict[bytes, list[str]]) -> TaskCheck:
    """Read a task; add its name to `inputs` under the digest of each of its training inputs."""
    check = TaskCheck(name, splits)
    here: set[bytes] = set()
    try:
        task = benchmark.task(name)
        for example in benchmark.examples(name):
            check.examples += 1
            if reason := skip_reason(task, example):
                check.skipped[reason] += 1
                if reason not in check.first:
                    check.first[reason] = _place(benchmark, example)
                continue
            check.usable += 1
            key = input_key(task, example)
            check.repeated += key in here
            here.add(key)
    except (ValueError, OSError) as error:
        check.error = str(error)
    if "train" in splits:
        for key in here:
            inputs.setdefault(key, []).append(name)
    return check


def _place(benchmark: Benchmark, example: Example) -> str:
    """Return file and row of an example; for a benchmark of another class than ``FileTasks``, the row alone."""
    if isinstance(benchmark, FileTasks):
        return benchmark.location(example.task, example.index)
    return f"row {example.index + 1}"


def input_key(task: Task, example: Example) -> bytes:
    """Return a digest of an example's input, in which white space does not count.

    Dialogue and pre-training text have no input; their digest is of the target.
    """
    text = example.input if task.instruction_level != "none" else "".join(example.targets[:1])
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _duplicates(
    benchmark: Benchmark, tasks: Iterable[TaskCheck], inputs: Mapping[bytes, list[str]]
) -> list[Duplicates]:
    """Return the duplicates of tasks that are only tested; `inputs` are the training tasks of each digest."""
    duplicates = []
    for check in tasks:
        if check.splits != ("test",) or check.error:
            continue
        task, trained, ids = benchmark.task(check.name), Counter[str](), []
        for example in benchmark.examples(check.name):
            if skip_reason(task, example) is None and (names := inputs.get(input_key(task, example))):
                trained.update(names)
                ids.append(example.id)
        if ids:
            of_training = tuple(name for name, _ in trained.most_common())
            duplicates.append(Duplicates(check.name, of_training, len(ids), ids[0]))
    return duplicates
