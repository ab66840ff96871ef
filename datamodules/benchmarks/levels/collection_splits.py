"""The splits that collections state themselves, for tasks that the rules of a ``Bench`` do not decide for."""

from collections.abc import Collection, Mapping, Sequence

from ...messages import counted, some
from ...schema import Task
from ..benchmark import Split
from .dataset_identities import source_key
from .name_patterns import matches_any
from .split_rules import GROUPS, SplitRules


class CollectionSplits:
    """Decides for which tasks the split of their own collection counts, because the rules of a bench leave it open.

    Attributes:
        groups: Group of each task in the rules, e.g. ``fully_held_out``; None if they do not name the task.
        not_trained: Names of tasks that no collection or rule lists for training.

    Args:
        tasks: All tasks, named ``collection/task``.
        rules: Rules of a ``Bench`` for which tasks train and which are evaluated.
        listed: Names of the tasks that the collections list in each split.
    """

    def __init__(self, tasks: Sequence[Task], rules: SplitRules, listed: Mapping[Split, Collection[str]]) -> None:
        self.tasks, self.rules = tasks, rules
        self.listed = {split: frozenset(names) for split, names in listed.items()}
        self.groups = {task.name: _group(task, rules) for task in tasks}
        trained = self.listed.get("train", frozenset())
        training = {task.name.partition("/")[0] for task in tasks if task.name in trained}
        self.not_trained = {
            task.name
            for task in tasks
            if task.name not in trained
            and not matches_any(task.name, rules.also_train)
            and not (rules.replaces_splits(task) and task.name.partition("/")[0] in training)
        }

    def keeps(self, task: Task) -> bool:
        """Return whether a task keeps the split of its collection."""
        return self.groups[task.name] is None and not self.rules.replaces_splits(task)

    def evaluates(self, task: Task, stage: str) -> bool:
        """Return whether a task is evaluated because its collection lists it for `stage` ("validation" or "test")."""
        return self.keeps(task) and task.name in self.listed.get(stage, ())  # type: ignore[call-overload]

    def data_names(self, task: Task) -> list[str]:
        """Return the names of the data behind a task, by which it is recognized that another task is on the same data.

        They are its dataset and its sources, without broad sources such as Wikipedia. A task that the rules do not
        decide for may have the name of a dataset by chance, so only its sources are returned.
        """
        broad = {source_key(source) for source in self.rules.broad_sources}
        only_listed = self.keeps(task) and task.name in self.not_trained
        by_name = self.rules.decides(task) and not only_listed
        names = (task.dataset, *task.sources) if by_name else task.sources
        return [key for key in dict.fromkeys(map(source_key, names)) if key and key not in broad]

    def remarks(self, trained: Collection[str]) -> list[str]:
        """Return sentences for the report on what the rules leave to the collections, where a user may want to decide.

        They name collections that keep their own splits, and training tasks of theirs that have the name of a held-out
        dataset or are in a held-out category.

        Args:
            trained: Names of the tasks that train.
        """
        keeping = [task for task in self.tasks if self.keeps(task)]
        remarks = []
        if keeping and self.rules.collections is not None:
            collections = list(dict.fromkeys(task.name.partition("/")[0] for task in keeping))
            remarks.append(f"the rules do not name {', '.join(collections)}, which keep their own splits")
        undecided = [task for task in keeping if task.name in trained and not self.rules.decides(task)]
        same_name = [task.name for task in undecided if task.dataset in self.rules.held_out_datasets]
        if same_name:
            remarks.append(
                f"{counted(len(same_name), 'training task')} named like held-out datasets: {some(same_name)}; if they "
                "have their data, state it as `sources` in their metadata, or list their collection under `collections`"
            )
        within = [task.name for task in undecided if task.category in self.rules.held_out_categories]
        if within:
            remarks.append(
                f"{counted(len(within), 'task trains', 'tasks train')} in held-out categories, whose evaluated tasks "
                f"count as partially supervised: {some(within)}"
            )
        return remarks


def _group(task: Task, rules: SplitRules) -> str | None:
    """Return the task's group in the rules; None if they do not name it."""
    named = {group: any(rules.applies(entry, task) for entry in rules.of_group(group).entries) for group in GROUPS}
    held_out = rules.decides(task) or named[GROUPS[0]]
    groups = ["fully_held_out"] if held_out and task.category in rules.held_out_categories else []
    groups += [group for group in GROUPS[1:] if named[group]]
    if len(groups) > 1:
        raise ValueError(
            f"task {task.name!r} of category {task.category!r} is in {' and in '.join(groups)}: "
            "narrow the entries that match it, or the held-out categories"
        )
    return groups[0] if groups else None
