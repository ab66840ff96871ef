"""Several collections under one schema, as OPT-IML Bench consolidates eight (arXiv 2212.12017, section 2)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ..messages import expanded, nearest, some
from ..schema import Example, Task
from . import Benchmark, Split
from .decisions import read_decisions
from .task_splits import (
    TaskSplit,
    read_rules,
    split_tasks,
    subset_of_categories,
    subset_of_tasks,
    without_category,
    without_dropped,
)
from .taxonomy import Taxonomy

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Bench(Benchmark):
    """One benchmark of many: tasks are called ``collection/task``, and rules say which train and which are evaluated.

    A collection of your own is a reader (``benchmarks/benchmark.py``) in one file, and one line under `collections`.

    Args:
        collections: Readers by the name that stands before their tasks' names, and that proportions refer to.
        rules: Which tasks train: ``opt_iml`` as the paper has it, ``all`` (OPT-IML-Max), or a YAML file of your own
            (``task_splits.py`` shows one).
        leave_out: Instead of `rules`: the one category that is evaluated and does not train (FLAN's protocol).
        train_tasks: Train on so many tasks only; fewer are a subset of more.
        train_categories: Train on the tasks of so many categories only, the largest ones.
        decisions: A table that ``crosstask decontaminate`` wrote and a person judged: tasks that it drops do not train,
            or are not evaluated.
        taxonomy: File of the tasks' categories, by default the shipped one; a category that it does not know is the
            collection's own.
        seed: Decides which tasks a subset holds.
    """

    name = "bench"

    def __init__(
        self,
        collections: dict[str, Benchmark],
        rules: str = "opt_iml",
        leave_out: str | None = None,
        train_tasks: int | None = None,
        train_categories: int | None = None,
        decisions: str | None = None,
        taxonomy: str | None = None,
        seed: int = 0,
    ) -> None:
        if not collections:
            raise ValueError("a bench needs at least one collection")
        if odd := [name for name in collections if not name or "/" in name]:
            raise ValueError(f"a collection's name stands before a slash and must hold none, got {some(odd)}")
        if train_tasks is not None and train_categories is not None:
            raise ValueError("train_tasks and train_categories are two ways to train on less: set one of them")
        self.collections, self.taxonomy = dict(collections), Taxonomy.read(taxonomy)
        self.rules = without_category(leave_out) if leave_out is not None else read_rules(rules)
        if decisions is not None and not Path(expanded(decisions)).is_file():
            raise ValueError(f"no table of decisions {decisions!r}; `crosstask decontaminate` writes one")
        self.judgement = read_decisions(Path(expanded(decisions))) if decisions is not None else None
        self.leave_out, self.train_tasks, self.train_categories, self.seed = (
            leave_out,
            train_tasks,
            train_categories,
            seed,
        )

    def task_names(self, split: Split) -> list[str]:
        """Names of a split's tasks, collection by collection."""
        return list(getattr(self.split, split))

    def task(self, name: str) -> Task:
        """What is known of a task; `benchmark` is its collection, and its category the taxonomy's."""
        if name not in self._tasks:
            close = nearest(name, self._tasks)
            raise ValueError(f"no task {name!r} among the {len(self._tasks)} of {', '.join(self.collections)}; {close}")
        return self._tasks[name]

    def examples(self, name: str) -> Iterator[Example]:
        """All instances of a task, as its collection reads them."""
        collection, inner = self._inner(name)
        for example in collection.examples(inner):
            yield replace(example, task=name)

    def fingerprint(self, name: str) -> str:
        """The collection's own: neither rules nor other tasks decide how a task's examples look."""
        collection, inner = self._inner(name)
        return collection.fingerprint(inner)

    @cached_property
    def split(self) -> TaskSplit:
        """Which tasks train, which are evaluated, and what came of the rules."""
        tasks = list(self._tasks.values())
        split = split_tasks(tasks, self.rules, untrainable=self._untrainable)
        if self.leave_out is not None and split.missing:
            categories = {task.category for task in tasks}
            raise ValueError(f"no task is of the category {self.leave_out!r}; {nearest(self.leave_out, categories)}")
        if self.judgement is not None:
            split = without_dropped(split, self.judgement)
        evaluated = {*split.validation, *split.test}
        supervised = [name for name in split.train if name in evaluated]
        if self.train_tasks is not None:
            return subset_of_tasks(split, self.train_tasks, always=supervised, seed=self.seed)
        if self.train_categories is not None:
            categories_of = {name: self.task(name).category for name in split.train}
            always = {categories_of[name] for name in supervised}
            return subset_of_categories(split, categories_of, self.train_categories, always=always)
        return split

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Every task of each collection, whatever split the collection itself puts it in."""
        found = {}
        for name, collection in self.collections.items():
            listed = {split: collection.task_names(split) for split in SPLITS}
            for split, names in listed.items():
                if repeated := [task for task, times in Counter(names).items() if times > 1]:
                    raise ValueError(f"collection {name!r} lists tasks twice in {split}: {some(repeated)}")
            found[name] = list(dict.fromkeys(task for names in listed.values() for task in names))
        return found

    @cached_property
    def _tasks(self) -> dict[str, Task]:
        return {
            f"{name}/{inner}": self._qualified(name, collection.task(inner))
            for name, collection in self.collections.items()
            for inner in self._names[name]
        }

    @cached_property
    def _untrainable(self) -> set[str]:
        """Tasks of collections that list none for training: MMLU, BIG-bench."""
        evaluating = [name for name, collection in self.collections.items() if not collection.task_names("train")]
        return {f"{name}/{inner}" for name in evaluating for inner in self._names[name]}

    def _qualified(self, collection: str, task: Task) -> Task:
        try:
            category = self.taxonomy.category(self.collections[collection].name, task.name, task.category)
        except ValueError:
            if not task.category:
                raise
            category = task.category  # a collection of one's own may bring categories of its own
        return replace(task, benchmark=collection, name=f"{collection}/{task.name}", category=category)

    def _inner(self, name: str) -> tuple[Benchmark, str]:
        collection, _, inner = self.task(name).name.partition("/")
        return self.collections[collection], inner
