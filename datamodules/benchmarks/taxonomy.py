"""One category for every task of every collection, read from a file that people edit.

Super-NaturalInstructions has 76 categories; other collections have clusters, older names, or none at all. OPT-IML Bench
needs one coarse union of them (arXiv 2212.12017, section 2.2), since the category decides whether an evaluation task
counts as held out. ``data/taxonomy.yaml`` is that union.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from ..messages import expanded, kind, nearest, some
from ..schema import Task

SHIPPED = Path(__file__).parent / "data" / "taxonomy.yaml"
SECTIONS = ("categories", "called", "datasets", "collections", "tasks")


@dataclass(frozen=True)
class Taxonomy:
    """Categories, and how a task finds its own.

    >>> taxonomy = Taxonomy.read()
    >>> taxonomy.category("promptsource", "super_glue_rte", "")
    'Textual Entailment'
    >>> taxonomy.category("super_natural_instructions", "task1146_country_capital", "Country Capital Prediction")
    'Misc.'

    Args:
        file: Where it was read, for errors.
        categories: Every category there is.
        called: Category by the name that a collection has for it.
        datasets: Category by the beginning of a task's name.
        collections: Category of all tasks of a collection.
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
        """Read a taxonomy, the shipped one if no file is named, and reject one that contradicts itself."""
        path = SHIPPED if file is None else Path(expanded(file))
        if not path.is_file():
            raise ValueError(f"no taxonomy {path}; copy {SHIPPED} and edit the copy")
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a YAML file in UTF-8: {error}") from error
        if not isinstance(content, dict) or set(content) != set(SECTIONS):
            found = ", ".join(map(str, content)) if isinstance(content, dict) else kind(content)
            raise ValueError(f"{path}: expected the sections {', '.join(SECTIONS)}, got {found}")
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
        """The one category of a task.

        Args:
            benchmark: Its collection.
            task: Its name there.
            upstream: What the collection itself calls its category; empty if it calls it nothing.
        """
        found = self.tasks.get(f"{benchmark}/{task}") or self.collections.get(benchmark) or self._of_dataset(task)
        if found is None:
            found = upstream if upstream in self._known else self.called.get(upstream)
        if found is None:
            close = f" ({nearest(upstream, {*self._known, *self.called})})" if upstream else ""
            raise ValueError(
                f"task {benchmark}/{task} has no category: its name begins with no known dataset's, and its collection "
                f"calls it {upstream!r}{close}; add it to {self.file}, under `tasks`, `datasets` or `called`"
            )
        return found

    def check(self, tasks: Iterable[Task]) -> dict[str, str]:
        """The category of every task by ``collection/task``; all that have none are named in one error."""
        found, missing = {}, []
        for task in tasks:
            key = f"{task.benchmark}/{task.name}"
            try:
                found[key] = self.category(task.benchmark, task.name, task.category)
            except ValueError:
                missing.append(f"{key} ({task.category})" if task.category else key)
        if missing:
            raise ValueError(f"{len(missing)} tasks have no category: {some(missing)}; add them to {self.file}")
        return found

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.categories)

    def _of_dataset(self, task: str) -> str | None:
        """The category of the longest dataset's name that the task's name begins with, whole words only."""
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
    """The taxonomy that readers use whose collection states no categories, read once."""
    return Taxonomy.read()


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _words(name: str) -> list[str]:
    """The words of a task's name.

    >>> _words("glue/sst2"), _words("wsc.fixed")
    (['glue', 'sst2'], ['wsc', 'fixed'])
    """
    return [word for word in re.split(r"[^A-Za-z0-9]+", name.lower()) if word]


def _inverted(path: Path, datasets: Mapping[str, Iterable[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for category, names in datasets.items():
        for name in names:
            key = "_".join(_words(name))
            if key in found:
                raise ValueError(f"{path}: dataset {name!r} is listed in {found[key]!r} and in {category!r}")
            found[key] = category
    return found
