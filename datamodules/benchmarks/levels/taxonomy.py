"""Task categories: one coarse set for all collections, read from an editable file.

Super-NaturalInstructions has 76 categories; other collections have clusters, other names for categories, or none.
OPT-IML Bench needs one coarse union of them (arXiv 2212.12017, section 2.2), since the category decides whether an
evaluation task is held out. ``data/taxonomy.yaml`` is that union.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from ...messages import expanded, kind, nearest
from ...schema import Task
from ...yaml_files import read_yaml

SHIPPED = Path(__file__).parents[1] / "data" / "taxonomy.yaml"
SECTIONS = ("categories", "called", "datasets", "collections", "tasks")
"""Sections of the file, which are the fields of ``Taxonomy``."""


@dataclass(frozen=True)
class Taxonomy:
    """Assigns tasks of all collections to one set of categories, such as "Textual Entailment", by an editable file.

    >>> taxonomy = Taxonomy.read()
    >>> taxonomy.category("promptsource", "super_glue_rte")
    'Textual Entailment'
    >>> taxonomy.category("super_natural_instructions", "task1146_country_capital", "Country Capital Prediction")
    'Misc.'

    Args:
        file: File that the taxonomy was read from, for errors.
        categories: All categories.
        called: Category by another name that some collection has for it.
        datasets: Category by dataset; it is that of tasks whose name begins with the dataset's.
        collections: Category of all tasks of a collection, by collection.
        tasks: Category of single tasks, by ``collection/task``.
    """

    file: Path
    categories: tuple[str, ...]
    called: Mapping[str, str]
    datasets: Mapping[str, str]
    collections: Mapping[str, str]
    tasks: Mapping[str, str]

    @classmethod
    def read(cls, file: str | None = None) -> "Taxonomy":
        """Read and check a taxonomy; None for the installed one.

        Raises:
            ValueError: The file is missing, lacks a section, or names an unknown category.
        """
        path = SHIPPED if file is None else expanded(file)
        if not path.is_file():
            raise ValueError(f"no taxonomy {path}; copy {SHIPPED} and edit the copy")
        content = read_yaml(path)
        if not isinstance(content, dict) or not set(content) <= set(SECTIONS):
            sections = ", ".join(map(str, content)) if isinstance(content, dict) else kind(content)
            raise ValueError(f"{path}: expected some of the sections {', '.join(SECTIONS)}, got {sections}")
        taxonomy = cls(
            file=path,
            categories=tuple(content.get("categories") or ()),
            called=content.get("called") or {},
            datasets=_inverted(path, content.get("datasets") or {}),
            collections=content.get("collections") or {},
            tasks=content.get("tasks") or {},
        )
        taxonomy._check_names(() if file is None else shipped_taxonomy().categories)
        return taxonomy

    def category(self, benchmark: str, task: str, stated: str = "") -> str | None:
        """Return a task's category according to this file; None if the file has nothing about the task.

        The file is searched for the task, then for its collection, then for the category that the collection states. If
        the collection states none, the file is searched for the dataset with which the task's name begins.

        Args:
            benchmark: Name of the collection's reader, e.g. ``"promptsource"``.
            task: Name of the task in the collection.
            stated: Category that the collection states; empty if it states none.
        """
        by_name = self.tasks.get(f"{benchmark}/{task}") or self.collections.get(benchmark)
        by_category = stated if stated in self._known else self.called.get(stated)
        return by_name or by_category or (self._of_dataset(task) if not stated else None)

    def overriding(self, benchmarks: Iterable[str], task: str, stated: str = "") -> str | None:
        """Return the category with which a user's file overrides the installed one; None if it has nothing on the task.

        The file is searched for the task, then for its collection, then for the dataset with which the task's name
        begins, then for the category that the collection states.

        Args:
            benchmarks: Names of the collection: that in the bench, and its reader's.
            task: Name of the task in the collection.
            stated: Category that the collection states; empty if it states none.
        """
        named = [self.tasks.get(f"{name}/{task}") or self.collections.get(name) for name in benchmarks]
        return next(filter(None, named), None) or self._of_dataset(task) or self.called.get(stated)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.categories)

    def _of_dataset(self, task: str) -> str | None:
        """Return the category of the longest dataset name that begins the task's name, in whole words."""
        words = _words(task)
        for end in range(len(words), 0, -1):
            if category := self.datasets.get("_".join(words[:end])):
                return category
        return None

    def _check_names(self, more: Iterable[str]) -> None:
        known = {*self._known, *more}
        if len(self._known) != len(self.categories):
            raise ValueError(f"{self.file}: `categories` names a category twice")
        for section in SECTIONS[1:]:
            for key, category in getattr(self, section).items():
                if category not in known:
                    raise ValueError(
                        f"{self.file}: {section} has {key!r} in {category!r}, which is not a category; "
                        f"{nearest(str(category), known)}; add it to `categories`"
                    )


@cache
def shipped_taxonomy() -> Taxonomy:
    """Return the taxonomy that is installed with the package; it is read once."""
    return Taxonomy.read()


def category_of_name(benchmark: str, task: str) -> str:
    """Return the category of a task whose collection states none: the installed taxonomy's, or the task's own name.

    >>> category_of_name("flan", "rte"), category_of_name("flan", "my_rhymes")
    ('Textual Entailment', 'my_rhymes')
    """
    return shipped_taxonomy().category(benchmark, task) or task


def category_in_bench(collection: str, reader: str, task: Task, taxonomy: Taxonomy | None) -> str:
    """Return the category of a task in a bench of several collections.

    It is that of the user's file of categories, or else of the installed file, or else the category that the task
    states, or else the task's name.

    Args:
        collection: Name of the task's collection in the bench.
        reader: Name of the collection's benchmark reader.
        task: The task as the reader returns it.
        taxonomy: The user's taxonomy; None if there is none.
    """
    own = taxonomy.overriding((collection, reader), task.name, task.category) if taxonomy is not None else None
    return own or shipped_taxonomy().category(reader, task.name, task.category) or task.category or task.name


def _words(name: str) -> list[str]:
    """Return the words of a task's name, in small letters.

    >>> _words("glue/sst2"), _words("wsc.fixed")
    (['glue', 'sst2'], ['wsc', 'fixed'])
    """
    return [word for word in re.split(r"[^A-Za-z0-9]+", name.lower()) if word]


def _inverted(path: Path, datasets: Mapping[str, Iterable[str]]) -> dict[str, str]:
    category_of: dict[str, str] = {}
    for category, names in datasets.items():
        for name in names:
            key = "_".join(_words(name))
            if key in category_of:
                raise ValueError(f"{path}: dataset {name!r} is listed in {category_of[key]!r} and in {category!r}")
            category_of[key] = category
    return category_of
