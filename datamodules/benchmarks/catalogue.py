"""Base class of readers whose benchmark is a list of datasets, each published in its own format.

A subclass declares its datasets in a table: the files of each split, the names on the hub, and the layouts of the rows,
each with a function that renders a row as examples. This file finds the files, chooses the layout by the columns of a
row, adds benchmark and task to errors, and computes fingerprints.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, get_args

from ..file_digests import file_digest
from ..folder_files import files_below
from ..messages import MissingFiles, existing_folder, expanded, kind, nearest, some
from ..schema import Demonstration, Example, InstructionLevel, MatchRule, Metric, Task
from .benchmark import Benchmark, Split
from .rows.row import Row, error_prefix, other_format
from .rows.row_files import file_rows, read_rows
from .rows.source_digests import source_digest
from .rows.unread_files import unread_files, unread_line


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """Input and answers of an example that a function made from one row of a file; the reader adds task, id and index.

    Args:
        input: Text that the model reads.
        targets: Accepted answers.
        options: Options to rank; empty for free-form answers.
        answer: Index of the correct option; None without options.
        skipped: Reason why the row cannot be used; empty for a good one.
    """

    input: str
    targets: tuple[str, ...]
    options: tuple[str, ...] = ()
    answer: int | None = None
    skipped: str = ""


Renderer = Callable[[Row], Iterable[RenderedExample]]
"""Function that makes the examples of a row: often one, and several if a row holds several questions."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One format in which a dataset's rows are published.

    Args:
        columns: Columns that identify this format. A row is rendered by the first layout of its dataset all of whose
            columns it has.
        render: Function that makes the examples of a row.
    """

    columns: tuple[str, ...]
    render: Renderer


@dataclass(frozen=True, slots=True)
class Files:
    """Files that together hold one split of a dataset.

    Args:
        paths: Paths below the benchmark's folder; all of them must exist. A path may be a folder of files, or a glob
            pattern with ``*``.
        read: Function that yields rows; it is called with one argument for each path.
    """

    paths: tuple[str, ...]
    read: Callable[..., Iterable[Row]] = file_rows


@dataclass(frozen=True, slots=True)
class Dataset:
    """Declares one dataset of a benchmark, which is read as one task: where its rows are, and how they are rendered.

    Args:
        name: Name of its task.
        category: Category of its task.
        layouts: Formats in which its rows are published.
        files: Alternative files of each split; the first alternative whose files all exist is read.
        config: Configuration on the hub.
        hub_splits: The hub's name of a split, for splits whose names differ there.
        definition: The task's instruction. If `instruction_level` is ``"instance"``, the functions that render its rows
            begin every input with it.
        instruction_level: ``task`` if one instruction serves the whole task; ``instance`` if each example's input has
            its own; ``none`` if there is neither instruction nor input, and all text is target.
        metric: Headline metric: ``rouge_l``, ``exact_match``, ``accuracy`` or ``token_f1``.
        match: Rule by which an answer equals a reference, a ``MatchRule``.
        parent: Task whose score is the mean of this task's and others' (``mmlu`` for its subjects); None for none.
        sources: Names of the data that the dataset was made from, by which tasks on the same data are recognized; if
            empty, the dataset's name.
        licence: Licence of its rows.
    """

    name: str
    category: str
    layouts: tuple[Layout, ...]
    files: Mapping[Split, tuple[Files, ...]] = field(default_factory=dict)
    config: str | None = None
    hub_splits: Mapping[Split, str] = field(default_factory=dict)
    definition: str = ""
    instruction_level: InstructionLevel = "instance"
    metric: Metric = "rouge_l"
    match: MatchRule = "text"
    parent: str | None = None
    sources: tuple[str, ...] = ()
    licence: str = ""


def split_files(
    paths: Mapping[Split, str | tuple[str, ...]], read: Callable[..., Iterable[Row]] = file_rows
) -> dict[Split, tuple[Files, ...]]:
    """Return the argument `files` of a ``Dataset`` that is published in one place: for each split, its only files.

    Args:
        paths: Path, or paths that are read together, of each split; below the benchmark's folder.
        read: Function that yields the rows of the paths.

    >>> split_files({"train": "gsm8k/train.jsonl"})["train"][0].paths
    ('gsm8k/train.jsonl',)
    """
    return {split: (Files((path,) if isinstance(path, str) else path, read),) for split, path in paths.items()}


class Catalogue(Benchmark):
    """Base class of benchmark readers that read several published datasets, each of them as one task.

    A subclass declares its datasets in a table; this class finds their files, reads and renders the rows.

    Args:
        folder: Folder with a folder for each dataset; environment variables and ``~`` are expanded. Datasets whose
            files are missing are not among the tasks. May be empty if all datasets are in `sources`.
        sources: Sources of single datasets outside the folder, by dataset: a .jsonl, .json, .tsv, .csv, .parquet or
            .arrow file, a folder of ``Dataset.save_to_disk``, or a hub name.
        split: Split of the datasets to read: ``train``, ``validation`` or ``test``.
    """

    version: ClassVar[int] = 1
    """Part of every fingerprint: raise it when the same file is to be read differently."""

    listed: ClassVar[Split | None] = None
    """Split under which ``task_names`` lists the tasks: "test" for benchmarks that only evaluate; None for `split`."""

    def __init__(self, folder: str = "", sources: dict[str, str] | None = None, split: Split = "train") -> None:
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {list(get_args(Split))}, got {split!r}")
        self.folder = folder and str(expanded(folder))
        self.sources = dict(sources or {})
        self.split = split

    @abstractmethod
    def datasets(self) -> Mapping[str, Dataset]:
        """Return all datasets of the benchmark by name, including those whose files are missing."""

    def dataset(self, name: str) -> Dataset:
        """Return where the files of one dataset are, and how its rows are rendered.

        Raises:
            ValueError: The benchmark has no dataset of this name; the error names the nearest.
        """
        if name not in self.datasets():
            raise ValueError(f"no task {name!r} in {self.name}; {nearest(name, self.datasets())}")
        return self.datasets()[name]

    def task_names(self, split: Split) -> list[str]:
        """Return the names of the datasets whose files exist, in the order of the benchmark.

        Raises:
            MissingFiles: No dataset has files of the split.
            ValueError: `sources` names an unknown dataset.
        """
        if split != (self.listed or self.split):
            return []
        if unknown := [name for name in self.sources if name not in self.datasets()]:
            raise ValueError(
                f"sources names {unknown[0]!r}, which is not a dataset of {self.name}; "
                f"{nearest(unknown[0], self.datasets())}"
            )
        folder = self._root()
        names = [name for name in self.datasets() if name in self.sources or (folder and self._files(name, folder))]
        if not names:
            raise MissingFiles(
                f"{self.folder or 'no folder'} holds the {self.split} split of no dataset of {self.name}; "
                f"expected e.g. {some(self._expected(next(iter(self.datasets()))))}; set `folder` or `sources`"
            )
        return names

    def task(self, name: str) -> Task:
        """Return the metadata of a dataset's task."""
        dataset = self.dataset(name)
        return Task(
            benchmark=self.name,
            name=name,
            category=dataset.category,
            definition=dataset.definition,
            positive_examples=self.demonstrations(name),
            instruction_level=dataset.instruction_level,
            parent=dataset.parent,
            sources=dataset.sources or (name,),
            metric=dataset.metric,
            match=dataset.match,
            licence=dataset.licence,
        )

    def demonstrations(self, name: str) -> tuple[Demonstration, ...]:
        """Return the demonstrations that are published with a dataset; none for most benchmarks."""
        return ()

    def examples(self, name: str) -> Iterator[Example]:
        """Yield all examples of the dataset's split in the order of its file, with ids like ``train-0``."""
        dataset = self.dataset(name)
        index = 0
        with error_prefix(self.name, name):
            for row in self._rows(dataset):
                with other_format(row):
                    examples = [_checked(row, rendered) for rendered in _layout(dataset, row).render(row)]
                for rendered in examples:
                    yield _example(name, f"{self.split}-{index}", index, rendered)
                    index += 1

    def fingerprint(self, name: str) -> str:
        """Return the SHA-256 of reader version, settings, definition, demonstrations and files."""
        dataset = self.dataset(name)
        if name in self.sources:
            content = source_digest(self.sources[name], config=dataset.config, split=self._hub_split(dataset))
        else:
            content = file_digest(*(file for path in self._paths(name)[1] for file in _files_in(path)))
        settings = f"{self.split} {self.settings()} {dataset.definition!r} {self.demonstrations(name)}"
        return hashlib.sha256(f"{self.name} {self.version} {name} {settings} {content}".encode()).hexdigest()

    def unread_lines(self) -> list[str]:
        """Return a line that counts files in the folders of known datasets that belong to none of their splits."""
        if (folder := self._root()) is None:
            return []
        patterns = {
            path
            for dataset in self.datasets().values()
            for split in get_args(Split)
            for files in self._alternatives(dataset, split)
            for path in files.paths
        }
        read = [match for path in patterns for match in _matches(folder, path)]
        places = sorted({folder / Path(path).parts[0] for path in patterns})
        files = [file for place in places if place.is_dir() for file in unread_files(place, read)]
        return [unread_line(folder, files)] if files else []

    def settings(self) -> str:
        """Return a subclass's arguments that change its examples, as text for the fingerprint."""
        return ""

    def _rows(self, dataset: Dataset) -> Iterable[Row]:
        if source := self.sources.get(dataset.name):
            return read_rows(source, config=dataset.config, split=self._hub_split(dataset))
        files, paths = self._paths(dataset.name)
        return files.read(*paths)

    def _paths(self, name: str) -> tuple[Files, list[Path]]:
        folder = self._root()
        if folder and (files := self._files(name, folder)):
            return files, [match for path in files.paths for match in _matches(folder, path)]
        expected = self._expected(name)
        raise MissingFiles(
            f"{self.name}, task {name}: no {self.split} split in {self.folder or 'any folder'}; expected "
            f"{' or '.join(expected) or 'it in `sources`, since upstream publishes no such split'}"
        )

    def _files(self, name: str, folder: Path) -> Files | None:
        for files in self._alternatives(self.datasets()[name], self.split):
            if all(_matches(folder, path) for path in files.paths):
                return files
        return None

    def _expected(self, name: str) -> list[str]:
        return [" + ".join(files.paths) for files in self.datasets()[name].files.get(self.split, ())]

    def _alternatives(self, dataset: Dataset, split: Split) -> tuple[Files, ...]:
        """Return the alternative files of a split; the last are those that ``crosstask download`` writes."""
        return (*dataset.files.get(split, ()), Files((f"{dataset.name}/{split}.jsonl",)))

    def _root(self) -> Path | None:
        return existing_folder(Path(self.folder), f"the files of {self.name}") if self.folder else None

    def _hub_split(self, dataset: Dataset) -> str:
        return dataset.hub_splits.get(self.split, self.split)


def _matches(folder: Path, path: str) -> list[Path]:
    if "*" in path:
        return sorted(folder.glob(path))
    return [folder / path] if (folder / path).exists() else []


def _files_in(path: Path) -> list[Path]:
    return files_below(path) if path.is_dir() else [path]


def _layout(dataset: Dataset, row: Row) -> Layout:
    for layout in dataset.layouts:
        if all(column in row.fields for column in layout.columns):
            return layout
    # The error compares the row with the layout that lacks the fewest columns.
    closest = min(dataset.layouts, key=lambda layout: sum(column not in row.fields for column in layout.columns))
    missing = next(column for column in closest.columns if column not in row.fields)
    raise row.error(f"no {missing!r}; {nearest(missing, row.fields)}; there are {some(list(row.fields))}")


def _checked(row: Row, rendered: RenderedExample) -> RenderedExample:
    """Return the example; it is an error if its input, targets or options are not all texts."""
    for part in (rendered.input, *rendered.targets, *rendered.options):
        if not isinstance(part, str):
            raise row.error(f"expected texts, got {kind(part)}")
    return rendered


def _example(task: str, id: str, index: int, rendered: RenderedExample) -> Example:
    targets = () if rendered.skipped else rendered.targets
    return Example(task, id, index, rendered.input, targets, None, rendered.options, rendered.answer, rendered.skipped)
