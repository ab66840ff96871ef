"""Benchmark reader of Super-NaturalInstructions (arXiv 2204.07705): one JSON file per task, as in its repository.

::

    folder/tasks/task020_mctaco_span_based_question.json      a task: definition, demonstrations, instances
    folder/splits/default/train_tasks.txt, test_tasks.txt     names of tasks, one a line

The schema of the first release is read, too: its ``Definition`` is a string, and its instances have no ``id``.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from ..data_files import decoded, listed_lines, parse_json
from ..messages import N_NAMED, MissingFiles, existing_folder, expanded, kind, nearest, some
from ..schema import Demonstration, Example, Task
from ..tracked_files import note
from .benchmark import Benchmark, Split
from .rows.unread_files import unread_files, unread_line

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

EXACT_MATCH_CATEGORIES = frozenset(
    {
        "Textual Entailment",
        "Cause Effect Classification",
        "Coreference Resolution",
        "Dialogue Act Recognition",
        "Answerability Classification",
        "Word Analogy",
    }
)
"""Categories whose headline metric is exact match; that of all others is ROUGE-L."""

SPLIT_FILES: dict[Split, str] = {"train": "train_tasks.txt", "validation": "dev_tasks.txt", "test": "test_tasks.txt"}
"""File with the task names of each split."""


class NaturalInstructions(Benchmark):
    """Reads the tasks of Super-NaturalInstructions (arXiv 2204.07705), or tasks of your own in its JSON format.

    Files are read on demand, and one file at a time is held in memory.

    Args:
        folder: Folder with the task files and the splits; environment variables and ``~`` are expanded, e.g.
            ``$CROSSTASK_DATA/superni``.
        splits: Folder of train_tasks.txt, test_tasks.txt and, optionally, dev_tasks.txt with the validation tasks;
            relative to `folder`, or absolute. If empty, every task file is a training task, as in OPT-IML Bench, whose
            rules divide the tasks.
        tasks: Folder of the task files; relative to `folder`, or absolute.
    """

    name = "super_natural_instructions"

    def __init__(self, folder: str, splits: str = "splits/default", tasks: str = "tasks") -> None:
        self.folder = expanded(folder)
        self.splits = self.folder / expanded(splits) if splits else None
        self.tasks = self.folder / expanded(tasks)
        self._open: _TaskFile | None = None

    def task_names(self, split: Split) -> list[str]:
        """Return the names in a split's file, in its order; without dev_tasks.txt there are no validation tasks.

        Raises:
            MissingFiles: The folder of the splits is missing.
            ValueError: The file is missing, names no task, names a task twice, or names one without a file.
        """
        if split not in SPLIT_FILES:
            raise ValueError(f"split must be one of {list(SPLIT_FILES)}, got {split!r}")
        if self.splits is None:
            return sorted(self._available()) if split == "train" else []
        folder = existing_folder(self.splits, "the split lists (without lists, set `splits` to '': every task trains)")
        path = folder / SPLIT_FILES[split]
        if split == "validation" and not path.exists():
            return []
        if not path.is_file():
            files = sorted(entry.name for entry in folder.iterdir())
            raise ValueError(
                f"no {path.name} in {folder}, which holds {some(files)}; "
                "set `splits` to the folder that holds the lists"
            )
        names = dict(listed_lines(path))
        _check_split(path, names, self._available())
        return list(names.values())

    def task(self, name: str) -> Task:
        """Return a task's metadata, from its file."""
        file = self._file(name)
        record = file.record
        category = file.texts(record, "Categories")[0]
        return Task(
            benchmark=self.name,
            name=name,
            category=category,
            # Tk-Instruct uses only the first of several definitions, and prompts.py relies on it.
            definition=file.texts(record, "Definition")[0],
            positive_examples=file.demonstrations("Positive Examples"),
            negative_examples=file.demonstrations("Negative Examples"),
            sources=file.texts(record, "Source", default=()),
            metric="exact_match" if category in EXACT_MATCH_CATEGORIES else "rouge_l",
            match="super_natural_instructions",
            licence=", ".join(file.texts(record, "Instance License", default=())),
        )

    def examples(self, name: str) -> Iterator[Example]:
        """Yield every instance of the task in file order, including those with an empty input or without a reference.

        Raises:
            ValueError: Two instances have the same id, or an instance lacks a field.
        """
        file = self._file(name)
        seen: dict[str, int] = {}
        for index, instance in enumerate(file.records("Instances")):
            where = f"instance {index}"
            # Instances of the first release have no id.
            identifier = file.text(instance, "id", where) if "id" in instance else f"{name}-{index}"
            if identifier in seen:
                raise file.error(
                    f"instances {seen[identifier]} and {index} have the same id {identifier!r}; rename one"
                )
            seen[identifier] = index
            yield Example(
                task=name,
                id=identifier,
                index=index,
                input=file.text(instance, "input", where),
                # Annotators often agree: duplicate answers are dropped.
                targets=tuple(dict.fromkeys(file.texts(instance, "output", where, empty=True))),
            )

    def fingerprint(self, name: str) -> str:
        """Return the SHA-256 of reader version, task name and file."""
        header = f"{self.name} {READER_VERSION} {name}\n".encode()
        return hashlib.sha256(header + self._file(name).content).hexdigest()

    def unread_lines(self) -> list[str]:
        """Return a line that counts files among the tasks that are not task files, e.g. in subfolders or compressed."""
        files = unread_files(self.tasks, self.tasks.glob("*.json"))
        return [unread_line(self.tasks, files)] if files else []

    def _file(self, name: str) -> "_TaskFile":
        path = self.tasks / f"{name}.json"
        if not path.is_file():
            available = self._available()
            raise MissingFiles(
                f"no task {name!r} among the {len(available)} task files of {self.tasks}; {nearest(name, available)}"
            )
        note(path)
        if self._open is None or not self._open.is_current(path):
            self._open = _TaskFile(path)
        return self._open

    def _available(self) -> set[str]:
        return {path.stem for path in existing_folder(self.tasks, "the task files").glob("*.json")}


class _TaskFile:
    """A task's file: its bytes, its record (parsed on demand) and checked access to the fields."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._signature = _signature(path)
        self.content = path.read_bytes()

    def is_current(self, path: Path) -> bool:
        return path == self.path and _signature(path) == self._signature

    @cached_property
    def record(self) -> Mapping[str, Any]:
        record = parse_json(decoded(self.content, str(self.path)), str(self.path))
        if not isinstance(record, dict):
            raise self.error(f"expected one JSON object, got {kind(record)}")
        return record

    def records(self, key: str) -> list[Mapping[str, Any]]:
        """Return the list of objects under `key`."""
        values = self._field(self.record, key, "the task")
        if not isinstance(values, list):
            raise self.error(f"{key!r} should be a list of objects, got {kind(values)}")
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.error(f"{key!r}[{index}] should be an object, got {kind(value)}")
        return values

    def demonstrations(self, key: str) -> tuple[Demonstration, ...]:
        return tuple(
            Demonstration(
                input=self.text(value, "input", f"{key!r}[{index}]"),
                output=self.text(value, "output", f"{key!r}[{index}]"),
                explanation=self.text(value, "explanation", f"{key!r}[{index}]", default=""),
            )
            for index, value in enumerate(self.records(key))
        )

    def text(self, record: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
        value = self._field(record, key, where, default)
        if not isinstance(value, str):
            raise self.error(f"{key!r} of {where} should be text, got {kind(value)}")
        return value

    def texts(
        self,
        record: Mapping[str, Any],
        key: str,
        where: str = "the task",
        default: tuple[str, ...] | None = None,
        empty: bool = False,
    ) -> tuple[str, ...]:
        """Return the texts of a field with a list of texts or one text; `empty` allows an empty list or first text."""
        value = self._field(record, key, where, default)
        texts = [value] if isinstance(value, str) else value
        if not _is_texts(texts):
            raise self.error(f"{key!r} of {where} should be text or a list of texts, got {kind(value)}")
        if default is None and not empty and not (texts and texts[0].strip()):
            raise self.error(f"{key!r} of {where} is empty, and a task cannot be used without it")
        return tuple(texts)

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}: {message}")

    def _field(self, record: Mapping[str, Any], key: str, where: str, default: object = None) -> Any:
        if key in record:
            return record[key]
        if default is None:
            raise self.error(f"{where} has no {key!r}; {nearest(key, record)}")
        return default


def _check_split(path: Path, names: Mapping[int, str], available: set[str]) -> None:
    """Reject a split without tasks, with a task twice, or with tasks that have no file.

    Args:
        path: The split's file.
        names: The task name on each line that is not blank.
        available: Names of all task files.
    """
    if not names:
        raise ValueError(f"{path} names no task; expected one name a line")
    lines: dict[str, list[int]] = {}
    for line, name in names.items():
        lines.setdefault(name, []).append(line)
    repeated = [f"{name!r} on lines {_joined(at)}" for name, at in lines.items() if len(at) > 1]
    if repeated:
        raise ValueError(f"{path} names tasks more than once: {some(repeated)}; remove the repetitions")
    unknown = [name for name in lines if name not in available]
    if unknown:
        # Only names in the message are compared: a thousand comparisons with a thousand names take minutes.
        listed = [f"line {lines[name][0]} {name!r} ({nearest(name, available)})" for name in unknown[:N_NAMED]]
        raise ValueError(
            f"{path}: {len(unknown)} of {len(names)} tasks have no file: {some(listed, total=len(unknown))}; "
            "add the files, correct the names, or set `splits` to lists of available tasks"
        )


def _joined(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _is_texts(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and set(map(type, value)) <= {str}


def _signature(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
