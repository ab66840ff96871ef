"""The split of a bench's tasks into training and evaluation, by rules (``split_rules.py``) and collections' own splits.

The level that a report prints is computed from the tasks that really train (``splits.py``). The groups of the rules
state an intention; ``TaskSplit.remarks`` reports where the two differ.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ...messages import counted, some
from ...schema import Task
from ..benchmark import Split
from .collection_splits import CollectionSplits
from .name_patterns import matches_any, name_matches
from .overlap_decisions import Decisions
from .split_rules import GROUPS, SplitRules

MOST_NAMED = 12
"""If more entries of the rules match no task, and none matches, they are counted instead of listed."""


class TaskSplit(NamedTuple):
    """Names of the tasks that train, validate and are tested, and why the other tasks of a bench do not.

    Args:
        train: Names of tasks that train.
        validation: Names of tasks that are evaluated during training.
        test: Names of tasks that are tested.
        excluded: Reason by task, for tasks that neither train nor are evaluated, and for tasks kept out of training
            because their data is evaluated.
        missing: Entries and categories of the rules that match no available task.
        remarks: Sentences for the report, e.g. on tasks whose level differs from the rules' intention.
    """

    train: list[str]
    validation: list[str]
    test: list[str]
    excluded: dict[str, str]
    missing: list[str]
    remarks: list[str]

    def lines(self) -> list[str]:
        """Return a printable summary: numbers of tasks, exclusions by reason, missing entries, remarks."""
        lines = [
            f"{counted(len(self.train), 'task trains', 'tasks train')}, "
            f"{counted(len(self.validation), 'validates', 'validate')}, "
            f"{counted(len(self.test), 'is tested', 'are tested')}"
        ]
        reasons = sorted({reason.split(":")[0] for reason in self.excluded.values()})
        for reason in reasons:
            names = sorted(name for name, why in self.excluded.items() if why.split(":")[0] == reason)
            lines.append(f"{counted(len(names), 'task does', 'tasks do')} not train, {reason}: {some(names)}")
        if self.missing:
            number = counted(len(self.missing), "entry of the rules matches", "entries of the rules match")
            lines.append(f"{number} no available task: {', '.join(self.missing)}")
        return lines + self.remarks


def apply_decisions(split: TaskSplit, decisions: Decisions) -> TaskSplit:
    """Return a split without the tasks that a person decided to drop because they share text with other tasks.

    Args:
        split: Tasks that train and are evaluated.
        decisions: Tasks to drop from training and from evaluation, from a table that the person edited.
    """
    reason = "shares text with evaluation"
    dropped = [name for name in split.train if name in decisions.drop_train]
    unevaluated = [
        name for name in dict.fromkeys([*split.validation, *split.test]) if name in decisions.drop_evaluation
    ]
    remarks = list(split.remarks)
    if unevaluated:
        remarks.append(
            f"{counted(len(unevaluated), 'task is', 'tasks are')} not evaluated, sharing text with training: "
            + some(unevaluated)
        )
    if decisions.undecided:
        pairs = counted(decisions.undecided, "pair of tasks shares", "pairs of tasks share")
        remarks.append(f"{pairs} text above the threshold, without a decision")
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
    listed: Mapping[Split, Collection[str]] | None = None,
    readers: Mapping[str, str] | None = None,
) -> TaskSplit:
    """Decide by rules which tasks train and which are evaluated; unnamed tasks keep their collections' splits.

    A dataset that is evaluated as held out does not train under any name, in any category, of the collections that the
    rules decide for. This holds for datasets that the rules name and for those of the available evaluation tasks. Tasks
    of other collections do not train if their metadata names such a dataset as a source. A task that also trains is
    evaluated on its dataset's official held-out file if a collection of the same reader has it. Otherwise it is
    evaluated on instances of its own file that do not train.

    Args:
        tasks: All tasks, named ``collection/task``, with their `dataset` set (``dataset_identities.py``).
        rules: Rules for training and evaluation.
        listed: Names of the tasks that the collections list in each split; None if all of them train.
        readers: Name of the benchmark reader of each collection; a collection that is not listed is its own reader.
            None lists none.

    Raises:
        ValueError: A task is in two groups, or no task is left to train.
    """
    own = CollectionSplits(tasks, rules, listed or {"train": [task.name for task in tasks]})
    groups, only = own.groups, own.not_trained
    named = {stage: [t for t in tasks if _evaluated(t, groups, rules, stage)] for stage in ("validation", "test")}
    official = {stage: _with_official_files(of_stage, only, readers or {}) for stage, of_stage in named.items()}
    chosen = {stage: {task.name for task in of_stage} - official[stage] for stage, of_stage in named.items()}
    validation, test = (
        [t.name for t in tasks if t.name in chosen[stage] or own.evaluates(t, stage)] for stage in named
    )
    evaluated = set(validation) | set(test)
    candidates = [t for t in tasks if groups[t.name] in (None, "fully_supervised") and t.name not in only]
    shared, also = _sharing(candidates, [t for t in tasks if t.name in evaluated], own, rules)
    names = [t.name for t in candidates if t.name not in shared]
    if not names:
        raise ValueError(f"the rules leave none of {len(tasks)} tasks to train")
    excluded = {**_reasons(tasks, own, official), **shared}
    missing, entries = _missing(tasks, rules)
    remarks = [*_remarks(tasks, groups, set(names), evaluated), *own.remarks(set(names))]
    if len(missing) == entries > MOST_NAMED:  # shipped rules in a bench without their collections
        missing, remarks = [], [f"none of the {entries} entries of the rules matches a task", *remarks]
    if also:
        remarks.append(
            f"{counted(len(also), 'task trains', 'tasks train')} on a dataset that is evaluated: {some(also)}"
        )
    if alone := _untrained(tasks, groups, set(names), only):
        number = counted(len(alone), "task")
        remarks.append(f"{number} should be fully supervised in a collection that only evaluates: {some(alone)}")
    excluded = {name: why for name, why in excluded.items() if name not in evaluated}
    return TaskSplit(names, validation, test, excluded, missing, remarks)


def _sharing(
    candidates: Sequence[Task], evaluated: Sequence[Task], own: CollectionSplits, rules: SplitRules
) -> tuple[dict[str, str], list[str]]:
    """Return the reason for each candidate that must not train since its data is evaluated, and those that may.

    Raises:
        ValueError: One that does not train should be fully supervised.
    """
    shared = _shared_data(candidates, evaluated, own, rules)
    also = [name for name in shared if matches_any(name, rules.also_train)]
    left_out = {name: reason for name, reason in shared.items() if name not in also}
    for name, reason in left_out.items():
        if own.groups[name] == "fully_supervised":
            raise ValueError(
                f"task {name!r} is fully supervised, but {reason}; list one of them at another level, or list the task "
                "under also_train"
            )
    return left_out, also


def _reasons(tasks: Sequence[Task], own: CollectionSplits, official: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return the reason, by task, for tasks that do not train although they share no data with evaluated ones.

    Args:
        tasks: All tasks.
        own: Groups of the tasks, and which tasks are only evaluated.
        official: Names of tasks whose official held-out file is evaluated, by stage.
    """
    groups = own.groups
    reasons = {t.name: "its category is held out" for t in tasks if groups[t.name] == "fully_held_out"}
    reasons |= {name: "it only evaluates, and no rule names it" for name in own.not_trained if groups[name] is None}
    return reasons | dict.fromkeys(
        sorted(name for names in official.values() for name in names if groups[name] != "fully_supervised"),
        "its official file is evaluated",
    )


def _evaluated(task: Task, groups: Mapping[str, str | None], rules: SplitRules, stage: str) -> bool:
    group = groups[task.name]
    return group is not None and any(rules.applies(entry, task) for entry in getattr(rules.of_group(group), stage))


def _with_official_files(evaluated: Sequence[Task], only: Collection[str], readers: Mapping[str, str]) -> set[str]:
    """Return training tasks whose dataset another collection of the same reader evaluates on its official file."""

    def key(task: Task) -> tuple[str, str, str]:
        return readers.get(task.benchmark, task.benchmark), task.dataset, task.category

    official = {key(task) for task in evaluated if task.name in only and task.dataset}
    return {task.name for task in evaluated if task.name not in only and key(task) in official}


def _untrained(
    tasks: Sequence[Task], groups: Mapping[str, str | None], train: set[str], only: Collection[str]
) -> list[str]:
    """Return fully supervised tasks of evaluation-only collections whose dataset trains nowhere."""
    trained = {(task.dataset, task.category) for task in tasks if task.name in train}
    supervised = [task for task in tasks if groups[task.name] == "fully_supervised" and task.name in only]
    return [task.name for task in supervised if not task.dataset or (task.dataset, task.category) not in trained]


def _shared_data(
    candidates: Sequence[Task], evaluated: Sequence[Task], own: CollectionSplits, rules: SplitRules
) -> dict[str, str]:
    """Return the reason for each candidate that does not train: its data is evaluated at a held-out level."""
    owners, listed = dict.fromkeys(rules.held_out_datasets, ""), set[str]()
    also_trained = {task.name for task in candidates}
    for task in evaluated:
        if own.groups[task.name] != "fully_supervised" and task.name not in also_trained:
            listed |= {key for key in own.data_names(task) if own.keeps(task) and key not in owners}
            owners |= dict.fromkeys(own.data_names(task), f" in {task.name}")
    shared = {}
    for task in candidates:
        # Tasks that the rules train stay trained where another collection tests on the same data.
        ignored = listed if own.groups[task.name] == "fully_supervised" else ()
        key = next((key for key in own.data_names(task) if key in owners and key not in ignored), None)
        if key is not None:
            shared[task.name] = f"its dataset is evaluated: {key}{owners[key]}"
    return shared


def _missing(tasks: Sequence[Task], rules: SplitRules) -> tuple[list[str], int]:
    """Return the entries of the rules that match no task, and the number of all entries."""
    categories = {task.category for task in tasks if rules.decides(task)}
    collections = {task.name.partition("/")[0] for task in tasks}
    matched: list[tuple[str, bool]] = [
        (f"{entry} ({group})", any(rules.applies(entry, task) for task in tasks))
        for group in GROUPS
        for entry in rules.of_group(group).entries
    ]
    matched += [(f"{p} (also_train)", any(name_matches(t.name, p) for t in tasks)) for p in rules.also_train]
    matched += [(f"{p} (collections)", any(name_matches(c, p) for c in collections)) for p in rules.collections or ()]
    matched += [(f"category {category}", category in categories) for category in rules.held_out_categories]
    return [entry for entry, any_task in matched if not any_task], len(matched)


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
