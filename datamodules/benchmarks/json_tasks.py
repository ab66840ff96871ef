"""Tasks of your own: a JSONL file for each task, and an optional JSON file with its metadata.

::

    folder/train/rhymes.jsonl     {"input": "cat", "output": ["hat", "bat"]}           one example a line
    folder/train/rhymes.json      {"definition": "Write a word that rhymes.", "category": "Poem Generation"}
    folder/test/colours.jsonl     {"input": "Grass is", "output": "green", "options": ["green", "blue"]}

docs/data_formats.md has the table of fields.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from ..data_files import format_of, read_json, task_name_of
from ..messages import MissingFiles, existing_folder, expanded, kind, nearest, some
from ..schema import Demonstration, Example, InstructionLevel, MatchRule, Metric, Task
from .benchmark import Benchmark, Split
from .digests import file_digest
from .row_files import jsonl_rows
from .rows import Row, error_prefix
from .unread_files import unread_files, unread_line

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

TASK_FIELDS = (
    "definition category positive_examples negative_examples instruction_level parent sources metric match licence"
).split()
EXAMPLE_FIELDS = "id input output options template".split()


class JsonTasks(Benchmark):
    """Reads tasks from JSONL files.

    Args:
        folder: Folder with the folders ``train``, ``validation`` and ``test``, any of which may be missing; each
            file is a task of its folder's split.
        benchmark: Name of the collection in mixtures and reports.
    """

    name = "json_tasks"

    def __init__(self, folder: str, benchmark: str = "json_tasks") -> None:
        self.folder = Path(expanded(folder))
        self.name = benchmark

    def task_names(self, split: Split) -> list[str]:
        """Names of the files in the split's folder; a task may be in two splits, with the same file."""
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {list(get_args(Split))}, got {split!r}")
        existing_folder(self.folder, "the folders train, validation and test")
        if not any(self._files(each) for each in get_args(Split)) and (lines := self.unread_lines()):
            raise ValueError(
                f"no task in {self.folder}: {lines[0]}; expected a .jsonl file for each task in train, validation or "
                "test"
            )
        return sorted(self._files(split))

    def unread_lines(self) -> list[str]:
        """The files in other folders, of other formats, and metadata without a task."""
        tasks = [path for split in get_args(Split) for path in self._files(split).values()]
        about = [self._metadata_path(path) for path in tasks]
        files = unread_files(self.folder, [*tasks, *about])
        return [unread_line(self.folder, files)] if files else []

    def task(self, name: str) -> Task:
        """Metadata of the task's JSON file; without one, an instance-level task in the category of the collection."""
        with error_prefix(self.name, name):
            path = self._metadata_path(self._path(name))
            row = self._metadata(path) if path.is_file() else Row({"category": self.name}, str(path))
            usual = "task" if row.fields.get("definition") else "instance"
            level = _one_of(row, "instruction_level", InstructionLevel, default=usual)
            return Task(
                benchmark=self.name,
                name=name,
                category=row.text("category"),
                definition=row.text("definition", default=""),
                positive_examples=_demonstrations(row, "positive_examples"),
                negative_examples=_demonstrations(row, "negative_examples"),
                instruction_level=level,
                parent=row.text("parent", default="") or None,
                sources=row.texts("sources", default=()),
                metric=_one_of(row, "metric", Metric, default="rouge_l"),
                match=_one_of(row, "match", MatchRule, default="text"),
                licence=row.text("licence", default=""),
            )

    def examples(self, name: str) -> Iterator[Example]:
        """Every line of the task's file."""
        with error_prefix(self.name, name):
            seen: dict[str, str] = {}  # location by id
            for index, row in enumerate(jsonl_rows(self._path(name))):
                example = _example(name, index, row)
                if example.id in seen:
                    raise row.error(f"the id {example.id!r} is already used at {seen[example.id]}; rename one")
                seen[example.id] = row.location
                yield example

    def fingerprint(self, name: str) -> str:
        with error_prefix(self.name, name):
            path = self._path(name)
            metadata = self._metadata_path(path)
            content = file_digest(path, metadata) if metadata.is_file() else file_digest(path)
            return hashlib.sha256(f"{self.name} {READER_VERSION} {name} {content}".encode()).hexdigest()

    def _path(self, name: str) -> Path:
        files = [self._files(split) for split in get_args(Split)]
        paths = [of_split[name] for of_split in files if name in of_split]
        if not paths:
            available = [task for of_split in files for task in of_split]
            raise MissingFiles(f"no file for it among {len(available)} in {self.folder}; {nearest(name, available)}")
        if len(paths) > 1 and len({path.read_bytes() for path in paths}) > 1:
            raise ValueError(f"{some([str(path) for path in paths])} differ; a task in two splits needs equal files")
        return paths[0]

    def _files(self, split: str) -> dict[str, Path]:
        """The files of a split by task, in the order of their names."""
        files: dict[str, Path] = {}
        for path in sorted((self.folder / split).glob("*")):
            if format_of(path) == ".jsonl" and path.is_file():
                if (name := task_name_of(path)) in files:
                    raise ValueError(f"{files[name]} and {path} are both the task {name!r}; remove one")
                files[name] = path
        return files

    def _metadata_path(self, path: Path) -> Path:
        return path.with_name(f"{task_name_of(path)}.json")

    def _metadata(self, path: Path) -> Row:
        document = read_json(path)
        if not isinstance(document, dict):
            raise ValueError(f"{path}: expected an object that describes the task, got {kind(document)}")
        row = Row(document, str(path))
        _reject_unknown(row, TASK_FIELDS)
        return row


def _example(task: str, index: int, row: Row) -> Example:
    _reject_unknown(row, EXAMPLE_FIELDS)
    targets = row.texts("output")
    options = row.texts("options", default=())
    if not targets or not all(target.strip() for target in targets):
        raise row.error("'output' is empty; an example needs an answer")
    if options and targets[0] not in options:
        raise row.error(f"the answer {targets[0]!r} is none of the options {json.dumps(options, ensure_ascii=False)}")
    if options and (len(set(options)) < len(options) or not all(option.strip() for option in options)):
        raise row.error("'options' holds an option twice, or an empty one")
    return Example(
        task=task,
        id=row.text("id", default=f"{task}-{index}"),
        index=index,
        input=row.text("input"),
        targets=targets,
        template=row.text("template", default="") or None,
        options=options,
        answer=options.index(targets[0]) if options else None,
    )


def _demonstrations(row: Row, key: str) -> tuple[Demonstration, ...]:
    values = row.fields.get(key, [])
    if not isinstance(values, list):
        raise row.error(f"{key!r} should be a list of objects with input and output, got {kind(values)}")
    demonstrations = []
    for index, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise row.error(f"{key!r}[{index}] should be an object with input and output, got {kind(value)}")
        item = Row(value, f"{row.location}, {key!r}[{index}]")
        demonstrations.append(
            Demonstration(item.text("input"), item.text("output"), item.text("explanation", default=""))
        )
    return tuple(demonstrations)


def _one_of(row: Row, key: str, kinds: Any, default: str) -> Any:
    """The text of a field, which must be one of a Literal's values."""
    value = row.text(key, default=default)
    if value not in get_args(kinds):
        raise row.error(f"{key!r} should be one of {', '.join(get_args(kinds))}, got {value!r}")
    return value


def _reject_unknown(row: Row, allowed: list[str]) -> None:
    """Raise on unknown fields: a misspelt field would be lost silently."""
    for key in row.fields:
        if key not in allowed:
            raise row.error(f"unknown field {key!r}; {nearest(key, allowed)}; fields are {', '.join(allowed)}")
