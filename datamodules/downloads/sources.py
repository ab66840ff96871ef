"""The table of sources: origin and licence of every collection's files, and where they are placed.

``benchmarks/data/sources.yaml`` is the table; ``docs/data.md`` prints it. A collection has parts, each with one
source::

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
from .declared_types import require_types

SHIPPED = Path(__file__).parents[1] / "benchmarks" / "data" / "sources.yaml"

Use = Literal["collection", "stream", "evaluation"]
"""One of OPT-IML Bench's eight collections, another source of training text, or a benchmark that only evaluates."""

PARQUET_BRANCH = "refs/convert/parquet"
"""Branch of parquet files that the hub makes of every public dataset: ``<config>/<split>/0000.parquet``."""


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """Base class of the parts of a collection: sets of files from one source that are downloaded all or none.

    Args:
        name: Name, unique within the collection.
        licence: Licence of its files.
        megabytes: Size of its files; null if it was not measured.
        checked: Whether the reader was tested on these very files; if false, on files of the same format.
    """

    name: str
    licence: str
    megabytes: float | None = None
    checked: bool = False

    @property
    @abstractmethod
    def origin(self) -> str:
        """Source of the part, as text for messages and records."""

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Files and folders that the part fills, relative to the data folder."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Declares how a table of a git repository, or parallel text files, are converted to one JSONL file of rows.

    Args:
        from_files: One table (``.tsv``, ``.csv``), or several text files of equally many lines: line i of each is
            a column of row i.
        names: Names of the columns, or of the text files; empty if the table's first line has them.
        columns: How each column of the JSONL file is made from these (``column_mappings.py``).
    """

    from_files: tuple[str, ...]
    names: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class GitPart(Part):
    """Declares files of a collection that are downloaded from a git repository at one commit, whose hash git verifies.

    Args:
        git: Address of the repository.
        commit: Hash of the commit, 40 hexadecimal digits.
        files: Place in the data folder, by file or folder of the repository.
        tables: Tables to convert to JSONL, by place of the JSONL file in the data folder.
        licence_file: File of the repository with its licence, which is copied to ``licences/``; empty if it has none.
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
    """Declares one split of a hub dataset that is downloaded for a collection and written as a JSONL file.

    Args:
        hub: Name of the dataset.
        config: Configuration; empty for a dataset with only one, ``*`` for all.
        split: Split.
        to: Target, a ``.jsonl`` file, relative to the data folder.
        revision: Branch or commit; by default the hub's parquet branch.
        parquet: Pattern of the names of the files to read, e.g. ``0000.parquet`` for the beginning of a large dataset.
        rows: Number of rows of the split, which is checked; null if it is unknown.
        most: Maximum number of rows to keep, drawn at random; null for all.
        columns: Recipes of the columns to write (``column_mappings.py``); empty for the dataset's own.
        one_of: Instead of `columns`: alternative recipes, one of which is drawn for each row.
        skip: Rows to leave out: regular expression of a text, by column.
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
    """Declares files that a person must place, since their licence requires a form, a click, or the authors' program.

    Args:
        by_hand: Page to get the files from.
        how: Steps for a person on that page.
        files: Place in the data folder, by file.
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
    """Declares that the rows of all hub datasets are downloaded for which FLAN or PromptSource has templates.

    Args:
        rows_of: Collection whose templates name the datasets: ``flan`` or ``promptsource``.
        to: Place in the data folder: a folder with a folder for each split.
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
"""Class of a part by the field that only this class has."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Declares what ``crosstask download`` obtains for one name: the parts of a benchmark or corpus, and their use.

    Args:
        name: Name of the collection.
        title: Its name in papers.
        use: ``collection`` for one of OPT-IML Bench's eight, ``stream`` for another source of training text,
            ``evaluation`` for a benchmark that only evaluates.
        reader: Class of its benchmark reader.
        parts: Sets of its files, each from one source.
        note: Caveats for its users; empty for none.
    """

    name: str
    title: str
    use: Use
    reader: str
    parts: tuple[Part, ...]
    note: str = ""


@cache
def read_sources(path: str = "") -> Mapping[str, Collection]:
    """Read the YAML table of where collections are downloaded from, and return the collections by name.

    Args:
        path: The table; empty for the installed one.

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
    _require_plain(name, place)
    if entry["use"] not in get_args(Use):
        raise ValueError(f"{place}: use must be one of {', '.join(get_args(Use))}, got {entry['use']!r}")
    require_types(entry, Collection, place)
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
    require_types(entry, part_type, place)
    _require_plain(entry["name"], place)
    entry = {key: tuple(value) if key in ("one_of", "splits") else value for key, value in entry.items()}
    try:
        if "tables" in entry:
            entry["tables"] = {target: _table(table, place) for target, table in entry["tables"].items()}
        part = part_type(**entry)
    except TypeError as error:
        raise ValueError(f"{place}: {error}") from error
    if isinstance(part, HubPart):
        _require_recipes([part.columns, *part.one_of], place)
        _require_patterns(part.skip.values(), place)
    if isinstance(part, GitPart) and not re.fullmatch("[0-9a-f]{40}", part.commit):
        raise ValueError(f"{place}: a commit has 40 hexadecimal digits, got {part.commit!r}")
    for target in part.targets:
        if PurePosixPath(target).is_absolute() or ".." in PurePosixPath(target).parts:
            raise ValueError(f"{place}: {target!r} is outside the data folder; write a path below it")
    return part


def _require_plain(name: object, place: str) -> None:
    """Reject a name that would place the record of a download outside of the folder of records."""
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise ValueError(f"{place}: a name has letters, digits, '_', '.' and '-' alone, got {name!r}")


def _require_recipes(recipes: Iterable[Mapping[str, Mapping[str, Any]]], place: str) -> None:
    for column, recipe in (item for of_columns in recipes for item in of_columns.items()):
        if not isinstance(recipe.get("from"), str | list):
            raise ValueError(f"{place}: column {column!r} needs `from`, a path in the row or a list of paths")


def _require_patterns(patterns: Iterable[str], place: str) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{place}: {pattern!r} is not a regular expression: {error}") from error


def _table(entry: Mapping[str, Any], place: str) -> Table:
    _require_fields(entry, {*_names(Table)}, {"from_files", "columns"}, place)
    require_types(entry, Table, place)
    _require_recipes([entry["columns"]], place)
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
    """Reject a target of two parts, of which the later one would never be placed."""
    owners: dict[str, str] = {}
    for part in parts:
        for target in part.targets:
            if target in owners:
                raise ValueError(f"{file}: {target!r} is a target of {owners[target]!r} and of {part.name!r}")
            owners[target] = part.name


def _names(of: type) -> list[str]:
    return [item.name for item in fields(of)]
