"""The splits that collections state themselves, which are kept wherever the rules of a bench do not decide."""

from collections.abc import Collection, Mapping, Sequence

from ..messages import some
from ..schema import Task
from .benchmark import Split
from .dataset_identities import source_key
from .name_patterns import matches_any
from .split_rules import GROUPS, SplitRules


class OwnSplits:
    """The splits of the collections, for the tasks that the rules do not decide for.

    Attributes:
        groups: The group of each task in the rules; None for a task that they do not name.
        not_trained: Tasks that are in no training list which counts, and so never train.
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
        """Whether the task keeps the split of its collection."""
        return self.groups[task.name] is None and not self.rules.replaces_splits(task)

    def evaluates(self, task: Task, stage: str) -> bool:
        """Whether the task is evaluated because its collection lists it."""
        return self.keeps(task) and task.name in self.listed.get(stage, ())  # type: ignore[call-overload]

    def data(self, task: Task) -> list[str]:
        """The names under which the data of a task may be evaluated: its dataset and its sources, without broad ones.

        Where the rules do not decide, a task may have the name of a dataset by chance: only its sources count.
        """
        broad = {source_key(source) for source in self.rules.broad_sources}
        only_listed = self.keeps(task) and task.name in self.not_trained
        by_name = self.rules.decides(task) and not only_listed
        names = (task.dataset, *task.sources) if by_name else task.sources
        return [key for key in dict.fromkeys(map(source_key, names)) if key and key not in broad]

    def remarks(self, trained: Collection[str]) -> list[str]:
        """Remarks on collections that keep their splits, and on their training tasks that resemble evaluated ones."""
        keeping = [task for task in self.tasks if self.keeps(task)]
        remarks = []
        if keeping and self.rules.collections is not None:
            collections = list(dict.fromkeys(task.name.partition("/")[0] for task in keeping))
            remarks.append(f"the rules do not name {', '.join(collections)}, which keep their own splits")
        undecided = [task for task in keeping if task.name in trained and not self.rules.decides(task)]
        same_name = [task.name for task in undecided if task.dataset in self.rules.held_out_datasets]
        if same_name:
            remarks.append(
                f"{len(same_name)} tasks train whose names are those of held-out datasets: {some(same_name)}; if they "
                "have their data, state it as `sources` in their metadata, or list their collection under `collections`"
            )
        within = [task.name for task in undecided if task.category in self.rules.held_out_categories]
        if within:
            remarks.append(
                f"{len(within)} tasks train in held-out categories, whose evaluated tasks count as partially "
                f"supervised: {some(within)}"
            )
        return remarks


def _group(task: Task, rules: SplitRules) -> str | None:
    """The task's group in the rules; None if they do not name it."""
    named = {group: any(rules.name(entry, task) for entry in rules.of_group(group).entries) for group in GROUPS}
    held_out = rules.decides(task) or named[GROUPS[0]]
    groups = ["fully_held_out"] if held_out and task.category in rules.held_out_categories else []
    groups += [group for group in GROUPS[1:] if named[group]]
    if len(groups) > 1:
        raise ValueError(
            f"task {task.name!r} of category {task.category!r} is in {' and in '.join(groups)}: "
            "narrow the entries that match it, or the held-out categories"
        )
    return groups[0] if groups else None
