"""Sources of a user's tasks for ``FileTasks``: which files, folders or datasets are which task of which split.

A source is one file, a folder of files, a folder of splits, or a dataset.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from filecmp import cmp
from pathlib import Path
from typing import get_args

from ...data_files import BYTE_ORDER_MARK, format_of, read_text, task_name_of
from ...folder_files import files_in
from ...messages import MissingFiles, existing_folder, expanded, nearest
from ..benchmark import Split
from ..rows.row_files import SUFFIXES, is_hub_name, split_names

LIKE_SPLITS: Mapping[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Split that a file or a split of one dataset belongs to, by its name."""


@dataclass(frozen=True)
class TaskSource:
    """Says where the rows of one of a user's tasks are.

    Args:
        source: A file, a saved dataset, or a hub name.
        category: Category of the task if its metadata states none.
        split: Split of a dataset to read; None for a file.
        trained: Source of the same dataset that trains; None if there is none, or if these are the rows that train.
            With it, the level of the task is fully supervised.
    """

    source: str
    category: str
    split: str | None = None
    trained: str | None = None

    @property
    def metadata(self) -> Path | None:
        """The JSON file with the task's metadata, beside its rows or else beside those that train; None without one."""
        paths = [Path(source) for source in (self.source, self.trained) if source and self.split is None]
        beside = (path.with_name(f"{task_name_of(path)}.json") for path in paths)
        return next((about for about in beside if about.is_file() and _describes(about)), None)


Sources = dict[Split, dict[str, TaskSource]]
"""Sources by split and name of the task."""


def dataset_splits(source: str, config: str | None) -> list[str]:
    """Return the names of a dataset's own splits; [] for files of rows, and for a dataset without splits.

    Args:
        source: A file, a folder, or a hub name.
        config: Configuration of a hub dataset; None for its default.
    """
    path = expanded(source)
    if path.is_dir():
        return split_names(source, config) if _is_saved(path) or _is_copy(path) else []
    return split_names(source, config) if not path.is_file() and is_hub_name(source) else []


def task_sources(source: str, split: str | None, splits: Collection[str]) -> Sources:
    """Find the tasks in a user's file, folder or dataset, and return where the rows of each are, by split and name.

    A file or a dataset without splits is one task, whose instances are divided between training and test.

    Args:
        source: A file, a folder, or a hub name.
        split: The only split of a dataset to read; None for its own splits if it has a training split.
        splits: The splits of the dataset; empty for files.

    Raises:
        MissingFiles: The source does not exist.
        ValueError: Two of its files are the same task.
    """
    path = expanded(source)
    if path.is_file():
        return _both({task_name_of(path): TaskSource(str(path), task_name_of(path))})
    if not path.is_dir():
        if is_hub_name(source):
            return _of_dataset(source, source.partition("@")[0].rpartition("/")[2], split, splits)
        existing_folder(path if not format_of(path) else path.parent, f"files of rows ({', '.join(SUFFIXES)})")
        names = [file.name for file in path.parent.iterdir()]
        raise MissingFiles(f"no file {path.name} in {path.parent.absolute()}; {nearest(path.name, names)}")
    if _is_saved(path):
        return _of_dataset(str(path), path.name, split, splits)
    folders: Sources = {each: _files(path / each) for each in get_args(Split)}
    if any(folders.values()):
        return _own_splits(folders)
    files = _files(path)
    if _is_copy(path):
        return _of_dataset(str(path), path.name, split, splits)
    if files and set(files) <= set(LIKE_SPLITS):
        return _splits_of_one_task(path.resolve().name, files)
    return _both(files)


def _is_saved(folder: Path) -> bool:
    """Return whether ``Dataset.save_to_disk`` wrote a folder."""
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))


def _is_copy(folder: Path) -> bool:
    """Return whether a folder is a copy of a hub dataset."""
    return (folder / "data").is_dir() and not _files(folder)


def _of_dataset(source: str, name: str, split: str | None, splits: Collection[str]) -> Sources:
    """Return a dataset as one task: with its own splits, or one of them, whose instances are divided."""
    parts = {part: TaskSource(source, name, part) for part in splits if part in LIKE_SPLITS}
    if split is None and "train" in parts and len(parts) > 1:
        return _splits_of_one_task(name, parts)
    return _both({name: TaskSource(source, name, split or "train")})


def _both(tasks: dict[str, TaskSource]) -> Sources:
    return {"train": tasks, "validation": {}, "test": tasks}


def _splits_of_one_task(name: str, files: Mapping[str, TaskSource]) -> Sources:
    """Return one task whose other splits are fully supervised, from ``train.jsonl`` and ``test.jsonl`` or a dataset."""
    sources: Sources = {each: {} for each in get_args(Split)}
    for stem, file in files.items():
        part = LIKE_SPLITS[stem]
        trained = files["train"].source if part != "train" and "train" in files else None
        task = name if part == "train" else f"{name}_{stem}"
        sources[part][task] = TaskSource(file.source, name, file.split, trained=trained)
    return sources


def _own_splits(folders: Sources) -> Sources:
    """Return the tasks of folders; a file that differs from its task's first one is named for its split: rhymes_test.

    Raises:
        ValueError: Another file has that name.
    """
    sources: Sources = {split: {} for split in folders}
    for split, files in folders.items():
        for name, file in files.items():
            first = next(tasks[name] for tasks in folders.values() if name in tasks)
            if cmp(first.source, file.source, shallow=False):
                sources[split][name] = file
                continue
            own = f"{name}_{split}"
            if others := [tasks[own].source for tasks in folders.values() if own in tasks]:
                raise ValueError(f"{file.source} and {others[0]} are both the task {own!r}; rename one")
            trained = folders["train"].get(name)
            sources[split][own] = replace(file, trained=trained.source if trained else None)
    return sources


def _files(folder: Path) -> dict[str, TaskSource]:
    """Return the files of rows in a folder by task, in the order of their names."""
    files: dict[str, TaskSource] = {}
    for path in files_in(folder) if folder.is_dir() else ():
        if format_of(path) in SUFFIXES and not _describes(path) and not path.name.startswith("."):
            if (name := task_name_of(path)) in files:
                raise ValueError(f"{files[name].source} and {path} are both the task {name!r}; remove one")
            files[name] = TaskSource(str(path), name)
    return files


def _describes(path: Path) -> bool:
    """Return whether a JSON file holds an object, a task's metadata, and not a list of rows."""
    return format_of(path) == ".json" and read_text(path).lstrip(BYTE_ORDER_MARK).lstrip().startswith("{")


def source_of(name: str, sources: Sources, place: str) -> TaskSource:
    """Return where the rows of a task are; the files of a task that is in two splits are equal.

    Args:
        name: Name of the task.
        sources: Where the rows of all tasks are, by split and task.
        place: Path or hub name in which the tasks were found, for errors.

    Raises:
        MissingFiles: There is no task of this name.
    """
    if (source := next((tasks[name] for tasks in sources.values() if name in tasks), None)) is not None:
        return source
    available = {task for tasks in sources.values() for task in tasks}
    raise MissingFiles(f"no file of this task among {len(available)} in {place}; {nearest(name, sorted(available))}")
