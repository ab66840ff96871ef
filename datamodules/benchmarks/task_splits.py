"""Training and evaluation tasks of several collections: the rules of ``split_rules.py`` applied to tasks.

The level that a report prints is computed from the tasks that really train (``splits.py``). The groups of the rules
state an intention; ``TaskSplit.remarks`` reports where the two differ.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..messages import some
from ..schema import Task
from .contamination_decisions import Decisions
from .dataset_identities import source_key
from .split_rules import GROUPS, Evaluated, SplitRules


class TaskSplit(NamedTuple):
    """The split of the available tasks.

    Args:
        train: Names of training tasks.
        validation: Names of tasks evaluated during training.
        test: Names of tasks tested.
        excluded: Reason, by task, why a task neither trains nor is evaluated, or does not train although no rule holds
            it out.
        missing: Patterns and categories of the rules that match no available task.
        remarks: Sentences that a reader of the scores should know.
    """

    train: list[str]
    validation: list[str]
    test: list[str]
    excluded: dict[str, str]
    missing: list[str]
    remarks: list[str]

    def lines(self) -> list[str]:
        """Summary for printing: numbers of tasks, exclusions by reason, missing tasks, remarks."""
        lines = [f"{len(self.train)} tasks train, {len(self.validation)} validate, {len(self.test)} are tested"]
        reasons = sorted({reason.split(":")[0] for reason in self.excluded.values()})
        for reason in reasons:
            names = sorted(name for name, why in self.excluded.items() if why.split(":")[0] == reason)
            lines.append(f"{len(names)} tasks do not train, {reason}: {some(names)}")
        if self.missing:
            lines.append(f"{len(self.missing)} entries of the rules match no available task: {', '.join(self.missing)}")
        return lines + self.remarks


def apply_decisions(split: TaskSplit, decisions: Decisions) -> TaskSplit:
    """The split without the tasks that the decisions about shared text drop."""
    reason = "shares text with evaluation"
    dropped = [name for name in split.train if name in decisions.drop_train]
    unevaluated = [
        name for name in dict.fromkeys([*split.validation, *split.test]) if name in decisions.drop_evaluation
    ]
    remarks = list(split.remarks)
    if unevaluated:
        remarks.append(
            f"{len(unevaluated)} tasks are not evaluated because they share text with training: {some(unevaluated)}"
        )
    if decisions.undecided:
        remarks.append(f"{decisions.undecided} pairs of tasks share text above the threshold and are undecided")
    return split._replace(
        train=[name for name in split.train if name not in decisions.drop_train],
        validation=[name for name in split.validation if name not in decisions.drop_evaluation],
        test=[name for name in split.test if name not in decisions.drop_evaluation],
        excluded=split.excluded | dict.fromkeys(dropped, reason),
        remarks=remarks,
    )


def split_tasks(
    tasks: Sequence[Task],
    rules: SplitRules,
    *,
    untrainable: Iterable[str] = (),
    readers: Mapping[str, str] | None = None,
) -> TaskSplit:
    """Apply rules to the available tasks.

    No dataset that is evaluated at a held-out level trains, whatever its name and category: neither those that the
    rules name nor those of the available evaluation tasks. A task of a training file is evaluated on its dataset's
    official held-out file where a collection of the same reader reads it, and else on instances of its own file that do
    not train.

    Args:
        tasks: All tasks, named ``"collection/task"``, with their datasets (``dataset_identities.py``).
        rules: Rules for training and evaluation.
        untrainable: Names of tasks that never train, whatever the rules.
        readers: Name of the reader of each collection; by default the collection's.

    Raises:
        ValueError: A task is in two groups, or no task is left to train.
    """
    groups = {task.name: _group(task, rules) for task in tasks}
    only = set(untrainable)
    named = {stage: [t for t in tasks if _evaluated(t, groups, rules, stage)] for stage in ("validation", "test")}
    official = {stage: _with_official_files(of_stage, only, readers or {}) for stage, of_stage in named.items()}
    validation, test = ([t.name for t in named[stage] if t.name not in official[stage]] for stage in named)
    evaluated = set(validation) | set(test)
    candidates = [t for t in tasks if groups[t.name] in (None, "fully_supervised") and t.name not in only]
    shared = _shared_data(candidates, [t for t in tasks if t.name in evaluated], groups, rules)
    also = [name for name in shared if _matches(name, rules.also_train)]
    shared = {name: reason for name, reason in shared.items() if name not in also}
    for name, reason in shared.items():
        if groups[name] == "fully_supervised":
            raise ValueError(
                f"task {name!r} is fully supervised, but {reason}; list one of them at another level, or list the task "
                "under also_train"
            )
    names = [t.name for t in candidates if t.name not in shared]
    if not names:
        raise ValueError(f"the rules leave none of {len(tasks)} tasks to train")
    excluded = {t.name: "its category is held out" for t in tasks if groups[t.name] == "fully_held_out"}
    excluded |= {name: "it only evaluates, and no rule names it" for name in only if groups[name] is None}
    excluded |= dict.fromkeys(
        sorted(name for names in official.values() for name in names if groups[name] != "fully_supervised"),
        "its official file is evaluated",
    )
    excluded = {name: why for name, why in (excluded | shared).items() if name not in evaluated}
    remarks = _remarks(tasks, groups, set(names), evaluated)
    if also:
        remarks.append(f"{len(also)} tasks train although their datasets are evaluated: {some(also)}")
    if alone := _untrained(tasks, groups, set(names), only):
        remarks.append(f"should be fully supervised, but their collections only evaluate: {some(alone)}")
    return TaskSplit(names, validation, test, excluded, _missing(tasks, rules), remarks)


def subset_of_tasks(split: TaskSplit, number: int, *, always: Iterable[str] = (), seed: int = 0) -> TaskSplit:
    """Train on `number` tasks; a smaller subset is part of a larger one (OPT-IML's scaling study: 16, 64, 256, 1024).

    Tasks in `always` are in every subset, like the paper's fully supervised evaluation tasks.
    """
    first = set(always) & set(split.train)
    if not len(first) <= number <= len(split.train) or number < 1:
        raise ValueError(
            f"expected at least the {len(first)} supervised tasks and at most all {len(split.train)} training tasks, "
            f"got {number}"
        )
    order = sorted(split.train, key=lambda name: (name not in first, _digest(seed, name)))
    return _reduced(split, set(order[:number]), f"{number} of {len(split.train)} training tasks are kept")


def subset_of_categories(
    split: TaskSplit, categories: Mapping[str, str], number: int, *, always: Iterable[str] = ()
) -> TaskSplit:
    """Train on the tasks of the `number` largest categories (OPT-IML: 4, 16, 64, 93 clusters).

    Args:
        split: The full split.
        categories: Category of each training task.
        number: Number of categories to keep.
        always: Categories in every subset, like those of the paper's fully supervised evaluation tasks.
    """
    sizes: dict[str, int] = {}
    for name in split.train:
        sizes[categories[name]] = sizes.get(categories[name], 0) + 1
    first = set(always) & set(sizes)
    if not len(first) <= number <= len(sizes) or number < 1:
        raise ValueError(
            f"expected at least the {len(first)} categories of supervised tasks and at most all {len(sizes)} training "
            f"categories, got {number}"
        )
    kept = set(sorted(sizes, key=lambda c: (c not in first, -sizes[c], c))[:number])
    names = {name for name in split.train if categories[name] in kept}
    return _reduced(split, names, f"the {number} largest of {len(sizes)} training categories are kept")


def _reduced(split: TaskSplit, kept: set[str], remark: str) -> TaskSplit:
    dropped = {name: "it is not in the subset" for name in split.train if name not in kept}
    # A fully supervised task that is dropped is still evaluated; its level is computed from the tasks that train.
    return split._replace(
        train=[name for name in split.train if name in kept],
        excluded=split.excluded | dropped,
        remarks=[*split.remarks, remark],
    )


def _digest(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _group(task: Task, rules: SplitRules) -> str | None:
    """The task's group in the rules; None if it trains and is not evaluated."""
    groups = ["fully_held_out"] if task.category in rules.held_out_categories else []
    groups += [group for group in GROUPS[1:] if any(entry.matches(task) for entry in _of_group(rules, group).entries)]
    if len(groups) > 1:
        raise ValueError(
            f"task {task.name!r} of category {task.category!r} is in {' and in '.join(groups)}: "
            "narrow the entries that match it, or the held-out categories"
        )
    return groups[0] if groups else None


def _of_group(rules: SplitRules, group: str) -> Evaluated:
    evaluated: Evaluated = getattr(rules, group)
    return evaluated


def _evaluated(task: Task, groups: Mapping[str, str | None], rules: SplitRules, stage: str) -> bool:
    group = groups[task.name]
    return group is not None and any(entry.matches(task) for entry in getattr(_of_group(rules, group), stage))


def _with_official_files(evaluated: Sequence[Task], only: Collection[str], readers: Mapping[str, str]) -> set[str]:
    """Tasks of training files whose dataset another collection of the same reader evaluates on its official file."""

    def key(task: Task) -> tuple[str, str, str]:
        return readers.get(task.benchmark, task.benchmark), task.dataset, task.category

    official = {key(task) for task in evaluated if task.name in only and task.dataset}
    return {task.name for task in evaluated if task.name not in only and key(task) in official}


def _untrained(
    tasks: Sequence[Task], groups: Mapping[str, str | None], train: set[str], only: Collection[str]
) -> list[str]:
    """Fully supervised tasks of evaluation-only collections whose dataset trains nowhere."""
    trained = {(task.dataset, task.category) for task in tasks if task.name in train}
    supervised = [task for task in tasks if groups[task.name] == "fully_supervised" and task.name in only]
    return [task.name for task in supervised if not task.dataset or (task.dataset, task.category) not in trained]


def _shared_data(
    candidates: Sequence[Task], evaluated: Sequence[Task], groups: Mapping[str, str | None], rules: SplitRules
) -> dict[str, str]:
    """Reason, by task, why a candidate for training does not train: its data is evaluated at a held-out level."""
    owners = dict.fromkeys(rules.held_out_datasets, "")
    for task in evaluated:
        if groups[task.name] != "fully_supervised":
            owners |= dict.fromkeys(_data(task, rules), f" in {task.name}")
    shared = {}
    for task in candidates:
        key = next((key for key in _data(task, rules) if key in owners), None)
        if key is not None:
            shared[task.name] = f"its dataset is evaluated: {key}{owners[key]}"
    return shared


def _data(task: Task, rules: SplitRules) -> list[str]:
    """The dataset and the sources of a task, without broad ones."""
    broad = {source_key(source) for source in rules.broad_sources}
    keys = dict.fromkeys(map(source_key, (task.dataset, *task.sources)))
    return [key for key in keys if key and key not in broad]


def _missing(tasks: Sequence[Task], rules: SplitRules) -> list[str]:
    categories = {task.category for task in tasks}
    listed = [(group, entry) for group in GROUPS for entry in _of_group(rules, group).entries]
    missing = [f"{entry} ({group})" for group, entry in listed if not any(entry.matches(task) for task in tasks)]
    return missing + [f"category {c}" for c in rules.held_out_categories if c not in categories]


def _remarks(
    tasks: Sequence[Task], groups: Mapping[str, str | None], train: set[str], evaluated: set[str]
) -> list[str]:
    trained = {task.category for task in tasks if task.name in train}
    alone: dict[str, list[str]] = {}
    for task in tasks:
        if groups[task.name] == "partially_supervised" and task.name in evaluated and task.category not in trained:
            alone.setdefault(task.category, []).append(task.name)
    return [
        f"no task of {category!r} trains: {some(names)} should be partially supervised and count as fully held out"
        for category, names in sorted(alone.items())
    ]
