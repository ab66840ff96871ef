"""Benchmark reader of a user's own files: rows in any known form, and optional JSON files with the tasks' metadata.

::

    mine.jsonl                    {"messages": [{"role": "user", "content": "Hello"}, ...]}   one task
    folder/reviews.csv            every file of a folder is a task
    folder/train/rhymes.jsonl     {"input": "cat", "output": ["hat", "bat"]}                  tasks by split
    folder/train/rhymes.json      {"definition": "Write a word that rhymes.", "category": "Poem Generation"}

docs/data_formats.md has an example of every form and the tables of fields.
"""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from ...data_files import format_of, read_json
from ...messages import expanded, kind, nearest, some
from ...schema import Demonstration, Example, InstructionLevel, MatchRule, Metric, Task
from ..benchmark import Benchmark, Split
from ..rows.row import Row, error_prefix
from ..rows.row_files import SUFFIXES, read_rows
from ..rows.source_digests import source_digest
from ..rows.unread_files import unread_files, unread_line
from .published_layouts import reader_hint
from .row_forms import Form, RowForm, declared_form, recognised_form, unread_columns
from .task_sources import LIKE_SPLITS, Sources, TaskSource, dataset_splits, source_of, task_sources

READER_VERSION = 4
"""Part of every fingerprint: raise it when the same file is to be read differently."""

TASK_FIELDS = (
    "definition category positive_examples negative_examples instruction_level parent sources metric match licence"
).split()
"""Fields of a task's metadata file; they are those of ``Task``."""

ROWS_LOOKED_AT = 1000
"""Rows whose columns are compared with the form before training; a new column in a later row is a warning."""


class FileTasks(Benchmark):
    """Reads a user's own tasks from files or a dataset, in any of five common formats of rows, chat among them.

    Args:
        source: A file of rows, which is one task; a folder of such files; a folder with the folders ``train``,
            ``validation`` and ``test`` of such files; a saved dataset; or a hub name, ``"owner/name"``.
        benchmark: Name of the collection in mixtures and reports.
        form: Form of the rows: ``input_output``, ``prompt_completion``, ``alpaca``, ``messages`` or ``sharegpt``
            (docs/data_formats.md has a row of each). None recognises it from the columns and reports it.
        columns: Column of the file for each field of the form whose name differs, e.g. ``{input: question, output:
            answer}``.
        roles: Role (``system``, ``user`` or ``assistant``) of other names in conversations, e.g. ``{bot: assistant}``.
        definition: Instruction of tasks whose metadata has none. In conversations it is the system turn.
        category: Category of tasks whose metadata has none; None makes each task its own category.
        config: Configuration of a hub dataset; None for its default.
        split: The only split of a hub or saved dataset to read. None reads its training, validation and test splits; if
            it has a training split alone, instances of it are held out for the test.
    """

    name = "file_tasks"

    def __init__(
        self,
        source: str | Path,
        benchmark: str = "file_tasks",
        form: Form | None = None,
        columns: dict[str, str] | None = None,
        roles: dict[str, str] | None = None,
        definition: str = "",
        category: str | None = None,
        config: str | None = None,
        split: str | None = None,
    ) -> None:
        self.source, self.name = str(source), benchmark
        self.form, self.columns, self.roles = form, columns or {}, roles or {}
        self.definition, self.category, self.config, self.split = definition, category, config, split
        self._forms: dict[str, RowForm] = {}
        if form is not None:
            declared_form(form, self.columns, self.roles, definition)  # rejects wrong names before a file is read

    def task_names(self, split: Split) -> list[str]:
        """Return the names of a split's tasks; instances of a task in two splits are divided between them.

        Raises:
            ValueError: The split is unknown, or the source holds no task.
        """
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {list(get_args(Split))}, got {split!r}")
        if not any(self._sources.values()):
            lines = self.unread_lines()
            raise ValueError(
                f"no task in {self.source}{': ' + lines[0] if lines else ''}; expected files of rows "
                f"({', '.join(SUFFIXES)}), in the folder or in train, validation and test; of folders within folders, "
                f"name the one that holds the files{reader_hint(expanded(self.source))}"
            )
        return sorted(self._sources[split])

    def unread_lines(self) -> list[str]:
        """Return lines that report files, splits and columns that are not read, and the form of the rows that are."""
        sources = {name: source for tasks in self._sources.values() for name, source in tasks.items()}
        lines = []
        if (folder := expanded(self.source)).is_dir():
            every = [source for tasks in self._sources.values() for source in tasks.values()]  # two splits, two files
            read = [path for source in every for path in (Path(source.source), source.metadata) if path]
            files = unread_files(folder, read)
            lines = [unread_line(folder, files)] if files else []
        if others := [split for split in self._dataset_splits if split not in LIKE_SPLITS]:
            lines.append(f"splits of {self.source} that are not read: {some(others)}; set `split` to read one")
        names_of: dict[str, list[str]] = defaultdict(list)
        for name in sorted(sources):
            with suppress(ValueError, OSError):  # reading the task's examples raises it again, with the task's name
                names_of[self._form_line(name)].append(name)
        return lines + [f"{some(names)}: the form of the rows is {form}" for form, names in names_of.items()]

    def task(self, name: str) -> Task:
        """Return a task's metadata: that of its JSON file, if it has one, completed by the reader's arguments."""
        with error_prefix(self.name, name):
            source = self._source(name)
            row = self._metadata(source)
            definition = row.text("definition", default="") or self.definition
            if self._form(name).conversations:
                definition = ""  # the system turn of every conversation
            level = _one_of(row, "instruction_level", InstructionLevel, default="task" if definition else "instance")
            return Task(
                benchmark=self.name,
                name=name,
                category=row.text("category", default=self.category or source.category),
                definition=definition,
                positive_examples=_demonstrations(row, "positive_examples"),
                negative_examples=_demonstrations(row, "negative_examples"),
                instruction_level=level,
                parent=row.text("parent", default="") or None,
                sources=row.texts("sources", default=()),
                metric=_one_of(row, "metric", Metric, default="rouge_l"),
                match=_one_of(row, "match", MatchRule, default="text"),
                level="fully_supervised" if source.trained else None,
                licence=row.text("licence", default=""),
            )

    def examples(self, name: str) -> Iterator[Example]:
        """Yield an example for every row of the task; warn about an unread column that first appears in a late row.

        Raises:
            ValueError: A row is not of the form, or two rows have the same id.
        """
        with error_prefix(self.name, name):
            form, source = self._form(name), self._source(name)
            places: dict[str, str] = {}  # location by id
            reported = set(form.read_columns())
            for index, row in enumerate(self._rows(source)):
                example = form.example(name, index, row)
                if example.id in places:
                    raise row.error(f"the id {example.id!r} is already used at {places[example.id]}; rename one")
                places[example.id] = row.location
                if (late := row.fields.keys() - reported) and index >= ROWS_LOOKED_AT:
                    warnings.warn(f"{row.location}: columns that are not read: {some(sorted(late))}", stacklevel=2)
                reported |= late
                yield example

    def location(self, name: str, index: int) -> str:
        """Return file and row of the example with this index, e.g. ``"mine/rhymes.jsonl, line 7"``."""
        return next(islice(self._rows(self._source(name)), index, None)).location

    def fingerprint(self, name: str) -> str:
        """Return the SHA-256 of reader version, form, rows and metadata file."""
        with error_prefix(self.name, name):
            source = self._source(name)
            digests = [source_digest(source.source, config=self.config, split=source.split)]
            digests += [source_digest(str(source.metadata))] if source.metadata else []
            read = f"{self.name} {READER_VERSION} {name} {self._form(name)!r} {' '.join(digests)}"
            return hashlib.sha256(read.encode()).hexdigest()

    @cached_property
    def _sources(self) -> Sources:
        return task_sources(self.source, self.split, self._dataset_splits)

    @cached_property
    def _dataset_splits(self) -> list[str]:
        """The splits of a dataset if the argument `split` chooses none of them; [] otherwise."""
        return dataset_splits(self.source, self.config) if self.split is None else []

    def _source(self, name: str) -> TaskSource:
        return source_of(name, self._sources, self.source)

    def _rows(self, source: TaskSource) -> Iterator[Row]:
        return read_rows(source.source, config=self.config, split=source.split, label_names=True)

    def _form(self, name: str) -> RowForm:
        """Return the form of a task's rows, which is recognised once."""
        if name not in self._forms:
            source = self._source(name)
            definition = self._metadata(source).text("definition", default="") or self.definition
            if self.form is not None:
                form = declared_form(self.form, self.columns, self.roles, definition)
            elif (first := next(self._rows(source), None)) is not None:
                form = recognised_form(first, self.columns, self.roles, definition)
            else:
                raise ValueError(f"{source.source} has no rows")
            self._forms[name] = form
        return self._forms[name]

    def _form_line(self, name: str) -> str:
        """Return the form of a task's rows, followed by the columns that are not read."""
        form = self._form(name)
        unread = unread_columns(form, islice(self._rows(self._source(name)), ROWS_LOOKED_AT))
        return f"{form}{'; columns that are not read: ' + ', '.join(unread) if unread else ''}"

    def _metadata(self, source: TaskSource) -> Row:
        path = source.metadata
        if path is None:
            return Row({}, source.source)
        row = Row(read_json(path), str(path))
        for key in row.fields:
            if key not in TASK_FIELDS:
                raise row.error(
                    f"unknown field {key!r}; {nearest(key, TASK_FIELDS)}; fields are {', '.join(TASK_FIELDS)}"
                )
        return row


def as_benchmark(benchmark: Benchmark | str | Path) -> Benchmark:
    """Return the reader for an argument that is a reader, or the path or hub name of a user's own data.

    A reader is returned unchanged. A path or hub name is read by ``FileTasks``.

    Raises:
        ValueError: The text is neither an existing path nor the form of a hub name.
    """
    # Constructors that a YAML fills are annotated `Benchmark | str`, although a Path is accepted, too. With Path in the
    # union, jsonargparse would read the name of a YAML file with a reader's class as the path of a data file.
    if isinstance(benchmark, Benchmark):
        return benchmark
    from .. import __all__ as readers

    name = str(benchmark)
    if not expanded(name).exists() and "/" not in name and format_of(Path(name)) not in SUFFIXES:
        raise ValueError(
            f"no reader or file is called {name!r}, {nearest(name, readers)}; expected the name of a reader, "
            f"or a file or folder of rows ({', '.join(SUFFIXES)})"
        )
    return FileTasks(name)


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
    """Return the text of a field, which must be one of a Literal's values."""
    value = row.text(key, default=default)
    if value not in get_args(kinds):
        raise row.error(f"{key!r} should be one of {', '.join(get_args(kinds))}, got {value!r}")
    return value
