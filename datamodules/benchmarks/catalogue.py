"""Families that are lists of datasets, each published in files, columns and words of its own.

A dataset is a row of a table: where its splits lie in a folder and on the hub, the layouts its rows come in, and for
each layout a function that renders a row. What they share is here: finding the files, choosing the layout by the
columns of a row, naming family, task, file and row in errors, fingerprints.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from ..messages import NotAtHand, existing_folder, expanded, nearest, some
from ..schema import Demonstration, Example, Task
from .benchmark import Benchmark, Split
from .row_files import Row, file_digest, file_rows, naming, rows, source_digest


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example of a dataset before it has a task and a place; see ``Example`` for the fields."""

    input: str
    targets: tuple[str, ...]
    options: tuple[str, ...] = ()
    answer: int | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """One form in which a dataset's rows are published.

    Args:
        columns: What a row of this form holds; the first layout whose columns are all there renders the row.
        render: The examples of a row, often one.
    """

    columns: tuple[str, ...]
    render: Callable[[Row], Iterable[Rendered]]


@dataclass(frozen=True, slots=True)
class Files:
    """Files that together hold one split of a dataset.

    Args:
        paths: Below the family's folder; all of them must be there. One may be a folder of files, or have a ``*`` that
            stands for several files.
        read: Makes rows of the files, one argument a path.
    """

    paths: tuple[str, ...]
    read: Callable[..., Iterable[Row]] = file_rows


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset of a family.

    Args:
        name: Name of its task.
        category: Category of its task.
        layouts: The forms its rows come in.
        files: Where each split may lie in a folder; the first that is all there is read.
        config: Configuration on the hub.
        hub_splits: Names of the splits on the hub, where they differ.
        definition: Its task's instruction, or what every input of it begins with.
        instruction_level: As in ``Task``.
        metric: As in ``Task``.
        parent: As in ``Task``.
        sources: As in ``Task``; the dataset's name if empty.
        licence: Licence of its rows.
    """

    name: str
    category: str
    layouts: tuple[Layout, ...]
    files: Mapping[Split, tuple[Files, ...]] = field(default_factory=dict)
    config: str | None = None
    hub_splits: Mapping[Split, str] = field(default_factory=dict)
    definition: str = ""
    instruction_level: Literal["task", "instance"] = "instance"
    metric: Literal["rouge_l", "exact_match", "accuracy"] = "rouge_l"
    parent: str | None = None
    sources: tuple[str, ...] = ()
    licence: str = ""


class Catalogue(Benchmark):
    """Reads a family of datasets from one folder, and single ones from wherever they are.

    Args:
        folder: Folder that holds a folder for each dataset; environment variables and ``~`` are expanded. Datasets
            that are not there are not among the tasks.
        sources: Where to read a dataset by its name instead: a .jsonl, .json, .tsv, .csv, .parquet or .arrow file, a
            folder of ``Dataset.save_to_disk``, or a name on the hub.
        split: Which of the datasets' own splits to read.
    """

    version: ClassVar[int] = 1
    """Part of every fingerprint: raised when the same file is read differently."""

    listed: ClassVar[Split | None] = None
    """The split that the tasks are listed under, "test" for families that only evaluate; None: the split read."""

    def __init__(self, folder: str = "", sources: dict[str, str] | None = None, split: Split = "train") -> None:
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {list(get_args(Split))}, got {split!r}")
        self.folder = expanded(folder)
        self.sources = dict(sources or {})
        self.split = split

    @abstractmethod
    def datasets(self) -> Mapping[str, Dataset]:
        """All datasets of the family by name, also those that are not at hand."""

    def dataset(self, name: str) -> Dataset:
        """One dataset of the table."""
        if name not in self.datasets():
            raise ValueError(f"no task {name!r} in {self.name}; {nearest(name, self.datasets())}")
        return self.datasets()[name]

    def task_names(self, split: Split) -> list[str]:
        """The datasets at hand, in the family's order."""
        if split != (self.listed or self.split):
            return []
        if unknown := [name for name in self.sources if name not in self.datasets()]:
            raise ValueError(
                f"sources names {unknown[0]!r}, which is no dataset of {self.name}; "
                f"{nearest(unknown[0], self.datasets())}"
            )
        folder = self._root()
        found = [name for name in self.datasets() if name in self.sources or (folder and self._files(name, folder))]
        if not found:
            raise NotAtHand(
                f"{self.folder or 'no folder'} holds the {self.split} split of no dataset of {self.name}; "
                f"expected e.g. {some(self._expected(next(iter(self.datasets()))))}; set `folder` or `sources`"
            )
        return found

    def task(self, name: str) -> Task:
        """What is known of one dataset."""
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
            input_languages=("English",),
            output_languages=("English",),
            licence=dataset.licence,
        )

    def demonstrations(self, name: str) -> tuple[Demonstration, ...]:
        """Solved examples that upstream publishes beside the dataset; none in most families."""
        return ()

    def examples(self, name: str) -> Iterator[Example]:
        """All examples of one dataset's split, in the order of its file."""
        dataset = self.dataset(name)
        index = 0
        with naming(self.name, name):
            for row in self._rows(dataset):
                for rendered in _layout(dataset, row).render(row):
                    yield _example(name, f"{self.split}-{index}", index, rendered)
                    index += 1

    def fingerprint(self, name: str) -> str:
        """SHA-256 of all that decides what examples return: this reader, its table's words, the files."""
        dataset = self.dataset(name)
        if name in self.sources:
            content = source_digest(self.sources[name], config=dataset.config, split=self._hub_split(dataset))
        else:
            content = file_digest(*(file for path in self._paths(name)[1] for file in _files_in(path)))
        settings = f"{self.split} {self.settings()} {dataset.definition!r} {self.demonstrations(name)}"
        return hashlib.sha256(f"{self.name} {self.version} {name} {settings} {content}".encode()).hexdigest()

    def settings(self) -> str:
        """Arguments of a subclass that change what examples return, for the fingerprint."""
        return ""

    def _rows(self, dataset: Dataset) -> Iterable[Row]:
        if source := self.sources.get(dataset.name):
            return rows(source, config=dataset.config, split=self._hub_split(dataset))
        files, paths = self._paths(dataset.name)
        return files.read(*paths)

    def _paths(self, name: str) -> tuple[Files, list[Path]]:
        folder = self._root()
        if folder and (files := self._files(name, folder)):
            return files, [found for path in files.paths for found in _found(folder, path)]
        expected = self._expected(name)
        raise NotAtHand(
            f"{self.name}, task {name}: no {self.split} split in {self.folder or 'any folder'}; expected "
            f"{' or '.join(expected) or 'it in `sources`, since upstream publishes no such split'}"
        )

    def _files(self, name: str, folder: Path) -> Files | None:
        for files in self.datasets()[name].files.get(self.split, ()):
            if all(_found(folder, path) for path in files.paths):
                return files
        return None

    def _expected(self, name: str) -> list[str]:
        return [" + ".join(files.paths) for files in self.datasets()[name].files.get(self.split, ())]

    def _root(self) -> Path | None:
        return existing_folder(Path(self.folder), f"the files of {self.name}") if self.folder else None

    def _hub_split(self, dataset: Dataset) -> str:
        return dataset.hub_splits.get(self.split, self.split)


def chosen(row: Row, options: tuple[str, ...], answer: str) -> int:
    """Place of the answer among the choices; a row without choices, or with another answer, is refused."""
    if not options or not all(option.strip() for option in options):
        raise row.error(f"empty choices: {list(options)}")
    if answer not in options:
        raise row.error(f"the answer {answer!r} is none of the choices {list(options)}")
    return options.index(answer)


def _found(folder: Path, path: str) -> list[Path]:
    if "*" in path:
        return sorted(folder.glob(path))
    return [folder / path] if (folder / path).exists() else []


def _files_in(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _layout(dataset: Dataset, row: Row) -> Layout:
    for layout in dataset.layouts:
        if all(column in row.fields for column in layout.columns):
            return layout
    # The layout that lacks the fewest columns is the one that was meant.
    meant = min(dataset.layouts, key=lambda layout: sum(column not in row.fields for column in layout.columns))
    missing = next(column for column in meant.columns if column not in row.fields)
    raise row.error(f"no {missing!r}; {nearest(missing, row.fields)}; there are {some(list(row.fields))}")


def _example(task: str, id: str, index: int, rendered: Rendered) -> Example:
    targets = () if rendered.skipped else rendered.targets
    return Example(task, id, index, rendered.input, targets, None, rendered.options, rendered.answer, rendered.skipped)
