"""The table of sources: origin and licence of every collection's files, and their places for its reader.

``benchmarks/data/sources.yaml`` is the table; ``docs/data.md`` shows it. A part has one source::

    bbh:
      title: BIG-Bench Hard
      use: evaluation                     # collection | stream | evaluation
      reader: BigBenchHard
      parts:
        - {name: tasks, licence: MIT, git: https://github.com/..., commit: 9ee0..., files: {bbh: bbh/bbh}}
        - {name: cb, licence: CC0, hub: owner/name, to: t5/cb/train.jsonl, columns: {inputs: {from: text}}}
        - {name: form, licence: LDC, by_hand: https://..., how: Fill in the form, files: {a.csv: story_cloze/a.csv}}
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from ..messages import expanded, kind, nearest
from ..yaml_files import read_yaml

SHIPPED = Path(__file__).parents[1] / "benchmarks" / "data" / "sources.yaml"

Use = Literal["collection", "stream", "evaluation"]
"""Whether a collection is one of OPT-IML Bench's eight, a stream beside them, or only evaluates."""

PARQUET_BRANCH = "refs/convert/parquet"
"""Branch that the hub makes of every public dataset: ``<config>/<split>/0000.parquet``, also of those with a script."""


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """A part of a collection, obtained and placed as a whole.

    Args:
        name: Name within its collection.
        licence: Licence of its files.
        megabytes: Size of its files, where it was measured.
        checked: Whether the reader was checked against these very files; else against files of the same format.
    """

    name: str
    licence: str
    megabytes: float | None = None
    checked: bool = False

    @property
    @abstractmethod
    def origin(self) -> str:
        """Source of the part, as one text."""

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Files and folders below the data folder that the part fills."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Files of a repository that become the rows of one JSONL file.

    Args:
        from_files: One table (``.tsv``, ``.csv``), or several files of text whose lines belong together.
        names: Names of the columns, or of the files; by default the table's first line.
        columns: How the written columns are made (``column_recipes.py``).
    """

    from_files: tuple[str, ...]
    names: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class GitPart(Part):
    """Files of a git repository at one commit, whose hash git verifies.

    Args:
        git: Address of the repository.
        commit: Hash of the commit, 40 hexadecimal digits.
        files: Target of each file or folder of the repository.
        tables: Tables to convert, by target.
        licence_file: The repository's licence, which is placed in ``licences/``; empty where it has none.
    """

    git: str
    commit: str
    files: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    licence_file: str = ""

    @property
    def origin(self) -> str:
        return f"{self.git} @ {self.commit[:12]}"

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.files.values(), *self.tables)


@dataclass(frozen=True, kw_only=True)
class HubPart(Part):
    """A split of a hub dataset, written as JSONL.

    Args:
        hub: Name of the dataset.
        config: Its configuration; empty for a dataset with one, ``*`` for all.
        split: Its split.
        to: Target, a ``.jsonl`` file.
        revision: Branch or commit; by default the hub's parquet branch.
        parquet: Pattern of the names of the files to read, e.g. ``0000.parquet`` for the beginning of a large dataset.
        rows: Number of rows of the split; null where it is not known.
        most: Most rows to keep, drawn at random.
        columns: How the columns are made (``column_recipes.py``); by default they are those of the dataset.
        one_of: Instead of `columns`: alternatives, one of which is drawn for each row.
        skip: Rows to leave out: the pattern of a text, by column.
        merged: Whether rows with equal inputs become one with all their targets.
    """

    hub: str
    config: str = ""
    split: str = "train"
    to: str
    revision: str = PARQUET_BRANCH
    parquet: str = "*.parquet"
    rows: int | None = None
    most: int | None = None
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    one_of: tuple[Mapping[str, Mapping[str, Any]], ...] = ()
    skip: Mapping[str, str] = field(default_factory=dict)
    merged: bool = False

    @property
    def origin(self) -> str:
        config = f", {self.config}" if self.config else ""
        return f"hub dataset {self.hub}{config}, split {self.split}"

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.to,)


@dataclass(frozen=True, kw_only=True)
class HandPart(Part):
    """Files that a person places, since their licence asks for a form, a click, or a program of their authors.

    Args:
        by_hand: Page to get them from.
        how: The steps for a person there.
        files: Target of each file.
    """

    by_hand: str
    how: str
    files: Mapping[str, str]

    @property
    def origin(self) -> str:
        return f"by hand: {self.by_hand}"

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.files.values())


@dataclass(frozen=True, kw_only=True)
class TemplateRowsPart(Part):
    """The rows under all templates of a collection, which are as many hub datasets: see ``template_parts.py``.

    Args:
        rows_of: The collection whose templates name the datasets.
        to: Folder with a folder for each task.
        splits: Splits to obtain.
    """

    rows_of: Literal["flan", "promptsource"]
    to: str
    splits: tuple[str, ...] = ("train",)

    @property
    def origin(self) -> str:
        return f"hub datasets of the templates of {self.rows_of}, splits {', '.join(self.splits)}"

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.to,)


PARTS: Mapping[str, type[Part]] = {"git": GitPart, "hub": HubPart, "by_hand": HandPart, "rows_of": TemplateRowsPart}
"""Kinds of parts by the field that only they have."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A collection that ``crosstask download`` obtains by its name.

    Args:
        name: Its name.
        title: Its name in papers.
        use: Whether it is one of OPT-IML Bench's eight, a stream beside them, or only evaluates.
        reader: Class that reads it.
        parts: Its parts.
        note: Caveats for its users.
    """

    name: str
    title: str
    use: Use
    reader: str
    parts: tuple[Part, ...]
    note: str = ""


@cache
def read_sources(path: str = "") -> Mapping[str, Collection]:
    """The collections of a table of sources by name; the shipped table if `path` is empty.

    Raises:
        ValueError: The table has an unknown or missing field, a path outside the data folder, or a target twice.
    """
    file = expanded(path) if path else SHIPPED
    if not file.is_file():
        raise ValueError(f"no table of sources {file}; the shipped one, {SHIPPED}, shows the format")
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected collections by name, got {kind(content)}")
    collections = {name: _collection(name, entry, file) for name, entry in content.items()}
    _require_apart([part for collection in collections.values() for part in collection.parts], file)
    return collections


def _collection(name: str, entry: Any, file: Path) -> Collection:
    place = f"{file}, {name}"
    known = {*_names(Collection)} - {"name"}
    _require_fields(entry, known, {"title", "use", "reader", "parts"}, place)
    if entry["use"] not in get_args(Use):
        raise ValueError(f"{place}: use must be one of {', '.join(get_args(Use))}, got {entry['use']!r}")
    parts = tuple(_part(part, f"{place}, part {number}") for number, part in enumerate(entry["parts"], start=1))
    names = [part.name for part in parts]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{place}: two parts are called {repeated[0]!r}; names are those of their records")
    return Collection(**{**entry, "name": name, "parts": parts})


def _part(entry: Any, place: str) -> Part:
    kinds = [key for key in PARTS if isinstance(entry, dict) and key in entry]
    if len(kinds) != 1:
        raise ValueError(f"{place}: a part has one of {', '.join(PARTS)}, got {kind(entry)}")
    part_type = PARTS[kinds[0]]
    _require_fields(entry, set(_names(part_type)), {"name", "licence"}, place)
    entry = {key: tuple(value) if key in ("one_of", "splits") else value for key, value in entry.items()}
    try:
        if "tables" in entry:
            entry["tables"] = {target: _table(table) for target, table in entry["tables"].items()}
        part = part_type(**entry)
    except TypeError as error:
        raise ValueError(f"{place}: {error}") from error
    if isinstance(part, GitPart) and not re.fullmatch("[0-9a-f]{40}", part.commit):
        raise ValueError(f"{place}: a commit has 40 hexadecimal digits, got {part.commit!r}")
    for target in part.targets:
        if PurePosixPath(target).is_absolute() or ".." in PurePosixPath(target).parts:
            raise ValueError(f"{place}: {target!r} is outside the data folder; write a path below it")
    return part


def _table(entry: Mapping[str, Any]) -> Table:
    fields_of_table: dict[str, Any] = {key: value if key == "columns" else tuple(value) for key, value in entry.items()}
    return Table(**fields_of_table)


def _require_fields(entry: Any, known: set[str], required: set[str], place: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: expected named fields, got {kind(entry)}")
    if unknown := [key for key in entry if key not in known]:
        raise ValueError(f"{place}: no field {unknown[0]!r}; {nearest(unknown[0], known)}")
    if missing := sorted(required - {*entry}):
        raise ValueError(f"{place}: {', '.join(missing)} is missing")


def _require_apart(parts: Iterable[Part], file: Path) -> None:
    """Reject a target of two parts: the later one would never be placed."""
    owners: dict[str, str] = {}
    for part in parts:
        for target in part.targets:
            if target in owners:
                raise ValueError(f"{file}: {target!r} is a target of {owners[target]!r} and of {part.name!r}")
            owners[target] = part.name


def _names(of: type) -> list[str]:
    return [item.name for item in fields(of)]
