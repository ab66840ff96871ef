"""The category of every task of every collection, read from an editable file.

Super-NaturalInstructions has 76 categories; other collections have clusters, other names for categories, or none.
OPT-IML Bench needs one coarse union of them (arXiv 2212.12017, section 2.2), since the category decides whether an
evaluation task is held out. ``data/taxonomy.yaml`` is that union.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from ..messages import expanded, kind, nearest

SHIPPED = Path(__file__).parent / "data" / "taxonomy.yaml"
SECTIONS = ("categories", "called", "datasets", "collections", "tasks")


@dataclass(frozen=True)
class Taxonomy:
    """Categories, and the mappings from tasks to categories.

    >>> taxonomy = Taxonomy.read()
    >>> taxonomy.category("promptsource", "super_glue_rte", "")
    'Textual Entailment'
    >>> taxonomy.category("super_natural_instructions", "task1146_country_capital", "Country Capital Prediction")
    'Misc.'

    Args:
        file: The taxonomy's file, for errors.
        categories: All categories.
        called: Category by a collection's name for it.
        datasets: Category by the dataset name that begins a task's name.
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
        """Read and check a taxonomy; the shipped one if `file` is None.

        Raises:
            ValueError: The file is missing, lacks a section, or names an unknown category.
        """
        path = SHIPPED if file is None else Path(expanded(file))
        if not path.is_file():
            raise ValueError(f"no taxonomy {path}; copy {SHIPPED} and edit the copy")
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a YAML file in UTF-8: {error}") from error
        if not isinstance(content, dict) or set(content) != set(SECTIONS):
            sections = ", ".join(map(str, content)) if isinstance(content, dict) else kind(content)
            raise ValueError(f"{path}: expected the sections {', '.join(SECTIONS)}, got {sections}")
        taxonomy = cls(
            file=path,
            categories=tuple(content["categories"]),
            called=content["called"],
            datasets=_inverted(path, content["datasets"]),
            collections=content["collections"],
            tasks=content["tasks"],
        )
        taxonomy._check_names()
        return taxonomy

    def category(self, benchmark: str, task: str, upstream: str = "") -> str:
        """The category of a task: by task, by collection, by dataset, or by the collection's category.

        Args:
            benchmark: Name of the collection.
            task: Name of the task in the collection.
            upstream: The collection's category of the task; empty if it has none.

        Raises:
            ValueError: No mapping has the task.
        """
        category = self.tasks.get(f"{benchmark}/{task}") or self.collections.get(benchmark) or self._of_dataset(task)
        if category is None:
            category = upstream if upstream in self._known else self.called.get(upstream)
        if category is None:
            close = f" ({nearest(upstream, {*self._known, *self.called})})" if upstream else ""
            raise ValueError(
                f"task {benchmark}/{task} has no category: its name begins with no known dataset's, and its collection "
                f"calls it {upstream!r}{close}; add it to {self.file}, under `tasks`, `datasets` or `called`"
            )
        return category

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.categories)

    def _of_dataset(self, task: str) -> str | None:
        """The category of the longest dataset name that begins the task's name, in whole words."""
        words = _words(task)
        for end in range(len(words), 0, -1):
            if category := self.datasets.get("_".join(words[:end])):
                return category
        return None

    def _check_names(self) -> None:
        if len(self._known) != len(self.categories):
            raise ValueError(f"{self.file}: `categories` names a category twice")
        for section in SECTIONS[1:]:
            for key, category in getattr(self, section).items():
                if category not in self._known:
                    close = nearest(str(category), self._known)
                    raise ValueError(
                        f"{self.file}: {section} has {key!r} in {category!r}, which is no category; {close}"
                    )


@cache
def shipped_taxonomy() -> Taxonomy:
    """The shipped taxonomy, for readers of collections without categories."""
    return Taxonomy.read()


class _UniqueKeys(yaml.SafeLoader):
    """Rejects duplicate keys, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _words(name: str) -> list[str]:
    """The words of a task's name.

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
