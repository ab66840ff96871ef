"""Tasks of your own, in the plainest of formats: a JSONL file for a task, and optionally a JSON file beside it.

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
from typing import cast, get_args

from ..messages import NotAtHand, existing_folder, expanded, kind, nearest, some
from ..schema import Demonstration, Example, Metric, Task
from .benchmark import Benchmark, Split
from .row_files import Row, file_digest, json_document, jsonl_rows, naming

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

TASK_FIELDS = (
    "definition category positive_examples negative_examples instruction_level parent sources metric input_languages "
    "output_languages licence"
).split()
EXAMPLE_FIELDS = "id input output options template".split()


class JsonTasks(Benchmark):
    """Reads tasks of one's own from JSONL files.

    Args:
        folder: Folder that holds the folders ``train``, ``validation`` and ``test``, of which any may be missing; the
            files of each are its tasks.
        benchmark: What the collection is called in mixtures and reports.
    """

    name = "json_tasks"

    def __init__(self, folder: str, benchmark: str = "json_tasks") -> None:
        self.folder = Path(expanded(folder))
        self.name = benchmark

    def task_names(self, split: Split) -> list[str]:
        """Names of the files in the split's folder; a task may stand in two splits, with the same file."""
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {list(get_args(Split))}, got {split!r}")
        folder = existing_folder(self.folder, "the folders train, validation and test") / split
        return sorted(path.stem for path in folder.glob("*.jsonl"))

    def task(self, name: str) -> Task:
        """What the JSON file beside the task's examples says; without one, only that its examples say it all."""
        with naming(self.name, name):
            path = self._path(name).with_suffix(".json")
            row = self._described(path) if path.is_file() else Row({"category": self.name}, str(path))
            level = row.text("instruction_level", default="task" if row.fields.get("definition") else "instance")
            if level not in ("task", "instance"):
                raise row.error(f"'instruction_level' should be 'task' or 'instance', got {level!r}")
            return Task(
                benchmark=self.name,
                name=name,
                category=row.text("category"),
                definition=row.text("definition", default=""),
                positive_examples=_demonstrations(row, "positive_examples"),
                negative_examples=_demonstrations(row, "negative_examples"),
                instruction_level="task" if level == "task" else "instance",
                parent=row.text("parent", default="") or None,
                sources=row.texts("sources", default=()),
                metric=_metric(row),
                input_languages=row.texts("input_languages", default=()),
                output_languages=row.texts("output_languages", default=()),
                licence=row.text("licence", default=""),
            )

    def examples(self, name: str) -> Iterator[Example]:
        """Every line of the task's file."""
        with naming(self.name, name):
            seen: dict[str, str] = {}
            for index, row in enumerate(jsonl_rows(self._path(name))):
                example = _example(name, index, row)
                if example.id in seen:
                    raise row.error(f"the id {example.id!r} stands at {seen[example.id]}, too; rename one")
                seen[example.id] = row.place
                yield example

    def fingerprint(self, name: str) -> str:
        with naming(self.name, name):
            path = self._path(name)
            beside = path.with_suffix(".json")
            content = file_digest(path, beside) if beside.is_file() else file_digest(path)
            return hashlib.sha256(f"{self.name} {READER_VERSION} {name} {content}".encode()).hexdigest()

    def _path(self, name: str) -> Path:
        found = [path for split in get_args(Split) if (path := self.folder / split / f"{name}.jsonl").is_file()]
        if not found:
            known = [path.stem for path in self.folder.glob("*/*.jsonl")]
            raise NotAtHand(f"no file for it among {len(known)} in {self.folder}; {nearest(name, known)}")
        if len(found) > 1 and len({path.read_bytes() for path in found}) > 1:
            raise ValueError(f"{some([str(path) for path in found])} differ; a task's examples stand in one file")
        return found[0]

    def _described(self, path: Path) -> Row:
        document = json_document(path)
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
    found = []
    for index, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise row.error(f"{key!r}[{index}] should be an object with input and output, got {kind(value)}")
        one = Row(value, f"{row.place}, {key!r}[{index}]")
        found.append(Demonstration(one.text("input"), one.text("output"), one.text("explanation", default="")))
    return tuple(found)


def _metric(row: Row) -> Metric:
    value = row.text("metric", default="rouge_l")
    if value not in get_args(Metric):
        raise row.error(f"'metric' should be one of {', '.join(get_args(Metric))}, got {value!r}")
    return cast(Metric, value)


def _reject_unknown(row: Row, known: list[str]) -> None:
    """A misspelt field would be lost in silence."""
    for key in row.fields:
        if key not in known:
            raise row.error(f"unknown field {key!r}; {nearest(key, known)}; fields are {', '.join(known)}")
