"""Checks of a benchmark's files before training: usable examples, skipped ones by reason, errors, duplicates."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..benchmarks import Benchmark
from ..benchmarks.own_data.file_tasks import FileTasks
from ..benchmarks.shared_sources import split_names
from ..messages import counted, some
from ..rendering.skipped_examples import skip_reason
from ..schema import Example, Task

FEW = 10
"""Tasks with fewer usable examples are named."""


@dataclass
class TaskCheck:
    """Contents of a task's file.

    Args:
        name: The task.
        splits: The splits that list it.
        examples: Examples of its file.
        usable: Examples that are not skipped.
        skipped: Number of skipped examples, by reason.
        first: Location of the first skipped example, by reason.
        repeated: Usable examples whose input occurs before in the task.
        error: The error with which reading the task ends; empty if there is none.
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
    """Test examples whose input is also a training example's, of another task.

    Args:
        task: The test task.
        trained: The training tasks, most duplicates first.
        count: Number of these examples.
        first: Id of the first of them.
    """

    task: str
    trained: tuple[str, ...]
    count: int
    first: str


@dataclass(frozen=True)
class BenchmarkCheck:
    """The result of a check.

    Args:
        tasks: All tasks, in the order of their splits.
        notes: Unread files, and how the files were read.
        duplicates: Of test tasks.
        errors: Errors that stop a training.
    """

    tasks: Sequence[TaskCheck]
    notes: Sequence[str]
    duplicates: Sequence[Duplicates]
    errors: Sequence[str]

    def lines(self) -> list[str]:
        """The result as text: counts, skipped examples, warnings, and errors last."""
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
    """Read all examples of all tasks."""
    errors: list[str] = []
    try:
        names, _ = split_names(benchmark, benchmark.task)
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
    """Read a task; the digests of its training inputs are added to `inputs`."""
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
    """File and row of an example; the row alone where a reader has many files."""
    if isinstance(benchmark, FileTasks):
        return benchmark.location(example.task, example.index)
    return f"row {example.index + 1}"


def input_key(task: Task, example: Example) -> bytes:
    """A digest of an example's text without regard to white space: of dialogue and plain text, its target."""
    text = example.input if task.instruction_level != "none" else "".join(example.targets[:1])
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _duplicates(
    benchmark: Benchmark, tasks: Iterable[TaskCheck], inputs: Mapping[bytes, list[str]]
) -> list[Duplicates]:
    """Examples of tasks that are only tested whose inputs train in other tasks."""
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
