"""The benchmark that joins several collections, like OPT-IML Bench with its eight (arXiv 2212.12017, section 2)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from ..messages import MissingFiles, counted, expanded, nearest, some
from ..rendering.pretraining_objectives import TextObjective
from ..schema import Example, Task
from . import Benchmark, Split
from .levels.dataset_identities import DatasetIdentities, shipped_identities
from .levels.generalization_levels import TaskSplit, apply_decisions, split_tasks
from .levels.overlap_decisions import read_decisions
from .levels.split_rules import leave_one_category_out, read_rules
from .levels.taxonomy import Taxonomy, category_in_bench
from .own_data.file_tasks import as_benchmark

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Bench(Benchmark):
    """Several benchmarks (collections) read as one, with rules for which tasks train and which are evaluated.

    Tasks are named ``collection/task``. A collection that the rules do not name keeps its own splits: tasks that it
    lists only for test never train. To add a collection, write a subclass of ``Benchmark`` and list it under
    `collections`.

    Args:
        collections: Benchmark readers, or paths of your own files, by name. The name is the first part of their tasks'
            names, and mixture proportions refer to it.
        rules: Which tasks train and which are evaluated: ``opt_iml`` (the paper's levels of generalization), ``all``
            (OPT-IML-Max: everything trains but evaluation-only tasks), or a YAML file of your own
            (docs/data_formats.md, "Rules").
        held_out_category: Instead of `rules`: the one category that is evaluated and does not train (FLAN's protocol,
            arXiv 2109.01652).
        decisions: TSV file that ``crosstask decontaminate`` wrote and a person edited; tasks that it drops do not
            train, or are not evaluated. None drops no task.
        taxonomy: YAML file of categories that override the installed ones. A task that neither file lists has the
            category that its collection states, or else is its own category.
        identities: YAML file that maps the names of a dataset in different collections to one; None for the installed
            one.
        partial: Whether a collection whose files are missing is left out and reported; if false, it is an error.
    """

    name = "bench"

    def __init__(
        self,
        collections: dict[str, Benchmark | str],
        rules: str = "opt_iml",
        held_out_category: str | None = None,
        decisions: str | None = None,
        taxonomy: str | None = None,
        identities: str | None = None,
        partial: bool = False,
    ) -> None:
        if not collections:
            raise ValueError("a bench needs at least one collection")
        if odd := [name for name in collections if not name or "/" in name]:
            raise ValueError(f"a collection's name must not be empty or contain a slash, got {some(odd)}")
        self.collections = {name: as_benchmark(collection) for name, collection in collections.items()}
        self.taxonomy = Taxonomy.read(taxonomy) if taxonomy is not None else None
        self.identities = shipped_identities() if identities is None else DatasetIdentities.read(identities)
        self.partial, self.missing = partial, dict[str, str]()
        self.rules = leave_one_category_out(held_out_category) if held_out_category is not None else read_rules(rules)
        self.identities.require(self.rules.datasets(), f"rules {rules!r}")
        if decisions is not None and not expanded(decisions).is_file():
            raise ValueError(f"no table of decisions {decisions!r}; `crosstask decontaminate` writes one")
        self.decisions = read_decisions(expanded(decisions)) if decisions is not None else None
        self.held_out_category = held_out_category

    def task_names(self, split: Split) -> list[str]:
        """Return the names of a split's tasks by the rules, in the order of the collections."""
        return list(getattr(self.split, split))

    def task(self, name: str) -> Task:
        """Return a task's metadata with a category and a dataset whose names are the same in all collections.

        So tasks of one kind, and tasks on the same data, are recognized in different collections. `benchmark` is the
        collection's name in this bench.

        Raises:
            ValueError: There is no such task; the error names the nearest.
        """
        if name not in self._tasks:
            close = nearest(name, self._tasks)
            raise ValueError(f"no task {name!r} among the {len(self._tasks)} of {', '.join(self.collections)}; {close}")
        return self._tasks[name]

    def examples(self, name: str) -> Iterator[Example]:
        """Yield all examples of a task, as its collection reads them."""
        collection, inner = self._inner(name)
        for example in collection.examples(inner):
            yield replace(example, task=name)

    def objective(self, name: str) -> TextObjective | None:
        """Return the pre-training objective, e.g. span corruption, that the task's collection has for its text.

        None for tasks whose examples have inputs, and for collections that are trained on the text itself.
        """
        collection, inner = self._inner(name)
        return collection.objective(inner)

    def unread_lines(self) -> list[str]:
        """Return the lines of all collections; equal lines of collections that share a folder appear once."""
        return list(dict.fromkeys(line for reader in self._present.values() for line in reader.unread_lines()))

    def fingerprint(self, name: str) -> str:
        """Return the digest of the task's files from its collection's reader; the bench's rules do not change it."""
        collection, inner = self._inner(name)
        return collection.fingerprint(inner)

    @cached_property
    def split(self) -> TaskSplit:
        """The tasks that train and are evaluated, by rules and decisions; computed once.

        Raises:
            ValueError: No task is of ``held_out_category``, or the rules reject the tasks.
        """
        tasks = list(self._tasks.values())
        readers = {name: collection.name for name, collection in self.collections.items()}
        split = split_tasks(tasks, self.rules, listed=self._listed, readers=readers)
        split = split._replace(
            excluded=self._left_out | split.excluded, remarks=[*split.remarks, *self._own_categories]
        )
        if self.held_out_category is not None:
            if split.missing:
                close = nearest(self.held_out_category, {task.category for task in tasks})
                raise ValueError(f"no task is of the category {self.held_out_category!r}; {close}")
            split = self._of_held_out_category(split)
        return split if self.decisions is None else apply_decisions(split, self.decisions)

    @property
    def _own_categories(self) -> list[str]:
        """A line that counts tasks for which neither a taxonomy nor their collection has a category."""
        names = [name for name, task in self._tasks.items() if name == f"{task.benchmark}/{task.category}"]
        number = counted(len(names), "task is a category of its own", "tasks are categories of their own")
        return [f"{number}: {some(names)}"] if names else []

    def _of_held_out_category(self, split: TaskSplit) -> TaskSplit:
        """Return the split without the evaluation tasks of other categories."""

        def of_category(names: list[str]) -> list[str]:
            return [name for name in names if self.task(name).category == self.held_out_category]

        kept = {*split.train, *of_category(split.validation), *of_category(split.test)}
        dropped = [name for name in dict.fromkeys([*split.validation, *split.test]) if name not in kept]
        return split._replace(
            validation=of_category(split.validation),
            test=of_category(split.test),
            excluded=split.excluded
            | dict.fromkeys(dropped, "it only evaluates, and its category is not the held-out one"),
        )

    @cached_property
    def _names_of(self) -> dict[str, dict[Split, list[str]]]:
        """Task names by collection and split; collections without files are added to ``missing``."""
        names_of: dict[str, dict[Split, list[str]]] = {}
        for name, collection in self.collections.items():
            try:
                names_of[name] = {split: collection.task_names(split) for split in SPLITS}
            except MissingFiles as error:
                if not self.partial:
                    raise
                self.missing[name] = f"no files: {error}"
        if not names_of:
            raise MissingFiles(
                f"none of the collections has files; {next(iter(self.missing.values()))}; `crosstask download` obtains "
                "those of OPT-IML (docs/data.md)"
            )
        return names_of

    @cached_property
    def _listed(self) -> dict[Split, list[str]]:
        """Task names by split, as the collections list them."""
        listed: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for name, names_of_split in self._names_of.items():
            for split, names in names_of_split.items():
                if repeated := [task for task, times in Counter(names).items() if times > 1]:
                    raise ValueError(f"collection {name!r} lists tasks twice in {split}: {some(repeated)}")
                listed[split] += [f"{name}/{task}" for task in names]
        return listed

    @cached_property
    def _tasks(self) -> dict[str, Task]:
        """All tasks by name, in the order of the collections and of their splits."""
        places = {name: place for place, name in enumerate(self.collections)}
        listed = dict.fromkeys(name for names in self._listed.values() for name in names)
        tasks = {}
        for name in sorted(listed, key=lambda name: places[name.partition("/")[0]]):
            collection, _, inner = name.partition("/")
            tasks[name] = self._qualified(collection, self.collections[collection].task(inner))
        return tasks

    @property
    def _present(self) -> dict[str, Benchmark]:
        """The collections whose files exist."""
        return {name: self.collections[name] for name in self._names_of}

    @property
    def _left_out(self) -> dict[str, str]:
        """Reason for each dataset that no collection reads as a task, and for collections without files."""
        datasets = {
            f"{name}/{inner}": reason
            for name, collection in self._present.items()
            for inner, reason in collection.left_out().items()
        }
        return datasets | {f"{name}/*": reason for name, reason in self.missing.items()}

    def _qualified(self, collection: str, task: Task) -> Task:
        category = category_in_bench(collection, self.collections[collection].name, task, self.taxonomy)
        identified = self.identities.identified(task)
        return replace(identified, benchmark=collection, name=f"{collection}/{task.name}", category=category)

    def _inner(self, name: str) -> tuple[Benchmark, str]:
        collection, _, inner = self.task(name).name.partition("/")
        return self.collections[collection], inner
