"""Which tasks of a collection of benchmarks train, and which are evaluated at which level: rules in a YAML, applied.

::

    fully_held_out:                       # no task of these categories trains
      categories: [Textual Entailment, Word Analogy]
      validation: ["*/winobias*"]         # evaluated; patterns are matched against "collection/task"
      test: ["*"]
    partially_supervised:                 # these tasks do not train, others of their categories do
      test: ["*/race*"]
    fully_supervised:                     # these train, and are evaluated on instances that are held out
      test: ["*/squad*"]
    evaluation_only:                      # never trained; whatever level follows from what trains
      test: ["bbh/*"]
    broad_sources: [wikipedia]            # may stand on both sides

Everything else trains. The level that a report shows is computed from what really trains (``splits.py``); these groups
say what is meant, and ``TaskSplit.remarks`` tells where the two differ.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..messages import nearest, some
from ..schema import Task
from .decisions import Judgement

SHIPPED = Path(__file__).parent / "data"
GROUPS = ("fully_held_out", "partially_supervised", "fully_supervised", "evaluation_only")


@dataclass(frozen=True)
class Evaluated:
    """Patterns of the tasks that a group evaluates, ``*`` for any text."""

    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitRules:
    """What a YAML of rules says; see this file's first lines.

    Args:
        held_out_categories: Categories none of whose tasks train.
        fully_held_out: Which of their tasks are evaluated.
        partially_supervised: Tasks that do not train, of categories that do.
        fully_supervised: Tasks that train and are evaluated.
        evaluation_only: Tasks that never train.
        broad_sources: Data that may stand in training and in evaluation.
    """

    held_out_categories: tuple[str, ...] = ()
    fully_held_out: Evaluated = Evaluated()
    partially_supervised: Evaluated = Evaluated()
    fully_supervised: Evaluated = Evaluated()
    evaluation_only: Evaluated = Evaluated()
    broad_sources: tuple[str, ...] = ()


class TaskSplit(NamedTuple):
    """The split of the tasks at hand.

    Args:
        train: Names of training tasks.
        validation: Names of tasks evaluated during training.
        test: Names of tasks tested.
        left_out: Why each other task neither trains nor is evaluated, or does not train though no rule holds it out.
        missing: Patterns of the rules that name no task at hand.
        remarks: What a reader of the scores should know.
    """

    train: list[str]
    validation: list[str]
    test: list[str]
    left_out: dict[str, str]
    missing: list[str]
    remarks: list[str]

    def lines(self) -> list[str]:
        """For printing: how many tasks stand where, what is missing, and what else there is to know."""
        held = [f"{len(self.train)} tasks train, {len(self.validation)} validate, {len(self.test)} are tested"]
        reasons = sorted({reason.split(":")[0] for reason in self.left_out.values()})
        for reason in reasons:
            names = sorted(name for name, why in self.left_out.items() if why.split(":")[0] == reason)
            held.append(f"{len(names)} tasks do not train, {reason}: {some(names)}")
        if self.missing:
            held.append(f"{len(self.missing)} listed and not at hand: {', '.join(self.missing)}")
        return held + self.remarks


def read_rules(name: str) -> SplitRules:
    """Rules that ship (``opt_iml``), or those of a YAML file.

    ``all`` are OPT-IML's with every held-out task in training (OPT-IML-Max): its evaluation tasks are fully supervised.

    Raises:
        ValueError: There is no such file, or it says something that rules have no word for.
    """
    if name == "all":
        return everything_trains(read_rules("opt_iml"))
    shipped = {path.stem.removesuffix("_levels"): path for path in SHIPPED.glob("*_levels.yaml")}
    path = shipped.get(name, Path(name).expanduser())
    if not path.is_file():
        raise ValueError(f"no rules {name!r}: expected a YAML file, or one of all, {', '.join(sorted(shipped))}")
    return _rules(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, str(path))


def everything_trains(rules: SplitRules) -> SplitRules:
    """The same evaluation with nothing held out but instances."""
    groups = (rules.fully_supervised, rules.fully_held_out, rules.partially_supervised)
    joined = Evaluated(
        *(tuple(dict.fromkeys(p for group in groups for p in getattr(group, s))) for s in ("validation", "test"))
    )
    # "*" meant every task of the held-out categories: with nothing held out it would be every task there is.
    joined = Evaluated(*(tuple(p for p in patterns if p != "*") for patterns in (joined.validation, joined.test)))
    return SplitRules(fully_supervised=joined, evaluation_only=rules.evaluation_only, broad_sources=rules.broad_sources)


def without_dropped(split: TaskSplit, judgement: Judgement) -> TaskSplit:
    """The split without what was dropped for text that training and evaluation share."""
    reason = "shares text with evaluation"
    dropped = [name for name in split.train if name in judgement.drop_train]
    unevaluated = [
        name for name in dict.fromkeys([*split.validation, *split.test]) if name in judgement.drop_evaluation
    ]
    remarks = list(split.remarks)
    if unevaluated:
        remarks.append(
            f"{len(unevaluated)} tasks are not evaluated, they share text with training: {some(unevaluated)}"
        )
    if judgement.undecided:
        remarks.append(f"{judgement.undecided} pairs of tasks share text above the threshold, and nobody has decided")
    return split._replace(
        train=[name for name in split.train if name not in judgement.drop_train],
        validation=[name for name in split.validation if name not in judgement.drop_evaluation],
        test=[name for name in split.test if name not in judgement.drop_evaluation],
        left_out=split.left_out | dict.fromkeys(dropped, reason),
        remarks=remarks,
    )


def without_category(category: str) -> SplitRules:
    """Leave one category out and evaluate it (the protocol of FLAN, arXiv 2109.01652, section 2.2)."""
    return SplitRules(held_out_categories=(category,), fully_held_out=Evaluated(test=("*",)))


def split_tasks(tasks: Sequence[Task], rules: SplitRules, *, untrainable: Iterable[str] = ()) -> TaskSplit:
    """Apply rules to the tasks at hand.

    Tasks of one source do not straddle training and evaluation: a task that would train leaves training if it was made
    from data that a task evaluated at a held-out level was made from, too.

    Args:
        tasks: All tasks, their names qualified: ``"collection/task"``.
        rules: What trains and what is evaluated.
        untrainable: Tasks that only ever evaluate, whatever the rules say of others.

    Raises:
        ValueError: A task would land in two groups, or no task is left to train.
    """
    groups = {task.name: _group(task, rules) for task in tasks}
    validation = [t.name for t in tasks if _evaluated(t.name, groups[t.name], rules, "validation")]
    test = [t.name for t in tasks if _evaluated(t.name, groups[t.name], rules, "test")]
    only = set(untrainable)
    left_out = {t.name: "its category is held out" for t in tasks if groups[t.name] == "fully_held_out"}
    left_out |= {name: "it only evaluates, and no rule names it" for name in only if groups[name] is None}
    evaluated = set(validation) | set(test)
    train = [t for t in tasks if groups[t.name] in (None, "fully_supervised") and t.name not in only]
    held_out = [t for t in tasks if t.name in evaluated and groups[t.name] != "fully_supervised"]
    shared = _shared_sources(train, held_out, rules)
    for name, reason in shared.items():
        if groups[name] == "fully_supervised":
            raise ValueError(
                f"task {name!r} is fully supervised, but {reason}; list one of them at another level, or its source "
                "under broad_sources"
            )
    names = [t.name for t in train if t.name not in shared]
    if not names:
        raise ValueError(f"the rules leave none of {len(tasks)} tasks to train")
    left_out = {name: why for name, why in (left_out | shared).items() if name not in evaluated}
    remarks = _remarks(tasks, groups, set(names), evaluated)
    if unseen := [name for name in only if groups[name] == "fully_supervised"]:
        remarks.append(f"meant to be fully supervised, but their collections only evaluate: {some(sorted(unseen))}")
    return TaskSplit(names, validation, test, left_out, _missing(tasks, rules), remarks)


def subset_of_tasks(split: TaskSplit, number: int, *, always: Iterable[str] = (), seed: int = 0) -> TaskSplit:
    """Train on `number` tasks; fewer are a subset of more (OPT-IML's study of scale: 16 in 64 in 256 in 1024).

    `always` come first, as the paper keeps its supervised evaluation tasks in every subset.
    """
    first = set(always) & set(split.train)
    if not len(first) <= number <= len(split.train) or number < 1:
        raise ValueError(
            f"a subset of {number} tasks must hold the {len(first)} supervised ones and be at most all "
            f"{len(split.train)} training tasks"
        )
    order = sorted(split.train, key=lambda name: (name not in first, _digest(seed, name)))
    return _reduced(split, set(order[:number]), f"of {len(split.train)} training tasks {number} are kept")


def subset_of_categories(
    split: TaskSplit, categories: Mapping[str, str], number: int, *, always: Iterable[str] = ()
) -> TaskSplit:
    """Train on the tasks of `number` categories, by falling number of tasks (OPT-IML: 4, 16, 64, 93 clusters).

    Args:
        split: What would train.
        categories: The category of each training task.
        number: Categories to keep.
        always: Categories that come first, as the paper keeps those of its supervised evaluation tasks.
    """
    sizes: dict[str, int] = {}
    for name in split.train:
        sizes[categories[name]] = sizes.get(categories[name], 0) + 1
    first = set(always) & set(sizes)
    if not len(first) <= number <= len(sizes) or number < 1:
        raise ValueError(
            f"{number} categories must hold the {len(first)} of supervised tasks and be at most all {len(sizes)} that "
            "train"
        )
    kept = set(sorted(sizes, key=lambda c: (c not in first, -sizes[c], c))[:number])
    names = {name for name in split.train if categories[name] in kept}
    return _reduced(split, names, f"of {len(sizes)} training categories the {number} largest are kept")


def source_key(source: str) -> str:
    """Spelling of a source that two collections share.

    >>> source_key("Super_GLUE/BoolQ") == source_key("super-glue boolq")
    True
    """
    return re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")


def _reduced(split: TaskSplit, kept: set[str], remark: str) -> TaskSplit:
    gone = {name: "it is not in the subset" for name in split.train if name not in kept}
    # A task that is evaluated on held-out instances stays evaluated: what trains decides its level.
    return split._replace(
        train=[name for name in split.train if name in kept],
        left_out=split.left_out | gone,
        remarks=[*split.remarks, remark],
    )


def _digest(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _patterns(rules: SplitRules, group: str) -> tuple[str, ...]:
    found: Evaluated = getattr(rules, group)
    return (*found.validation, *found.test)


def _group(task: Task, rules: SplitRules) -> str | None:
    """The one group that rules put a task in, or None where it trains and is not evaluated."""
    found = ["fully_held_out"] if task.category in rules.held_out_categories else []
    found += [group for group in GROUPS[1:] if _matches(task.name, _patterns(rules, group))]
    if len(found) > 1:
        raise ValueError(
            f"task {task.name!r} of category {task.category!r} lands in {' and in '.join(found)}: "
            "narrow the patterns that match it, or the held-out categories"
        )
    return found[0] if found else None


def _evaluated(name: str, group: str | None, rules: SplitRules, stage: str) -> bool:
    return group is not None and _matches(name, getattr(getattr(rules, group), stage))


def _shared_sources(train: Sequence[Task], held_out: Sequence[Task], rules: SplitRules) -> dict[str, str]:
    broad = {source_key(source) for source in rules.broad_sources}
    owners = {key: task.name for task in held_out for key in map(source_key, task.sources) if key not in broad}
    shared = {}
    for task in train:
        found = next((key for key in map(source_key, task.sources) if key in owners), None)
        if found is not None:
            shared[task.name] = f"its source evaluates: {found} of {owners[found]}"
    return shared


def _missing(tasks: Sequence[Task], rules: SplitRules) -> list[str]:
    names, categories = [task.name for task in tasks], {task.category for task in tasks}
    listed = [(group, pattern) for group in GROUPS for pattern in dict.fromkeys(_patterns(rules, group))]
    missing = [f"{p} ({group})" for group, p in listed if not any(fnmatchcase(name, p) for name in names)]
    return missing + [f"category {c}" for c in rules.held_out_categories if c not in categories]


def _remarks(
    tasks: Sequence[Task], groups: Mapping[str, str | None], train: set[str], evaluated: set[str]
) -> list[str]:
    seen = {task.category for task in tasks if task.name in train}
    alone: dict[str, list[str]] = {}
    for task in tasks:
        if groups[task.name] == "partially_supervised" and task.name in evaluated and task.category not in seen:
            alone.setdefault(task.category, []).append(task.name)
    return [
        f"no task of {category!r} trains: meant to be partially supervised, {some(names)} count as fully held out"
        for category, names in sorted(alone.items())
    ]


def _rules(document: Mapping[str, Any], where: str) -> SplitRules:
    known = (*GROUPS, "broad_sources")
    for key in document:
        if key not in known:
            raise ValueError(f"{where}: no {key!r} in rules; {nearest(str(key), known)}; there are {', '.join(known)}")
    groups = {group: document.get(group) or {} for group in GROUPS}
    for group, said in groups.items():
        allowed = ("validation", "test", *(["categories"] if group == "fully_held_out" else []))
        for key in said:
            if key not in allowed:
                raise ValueError(f"{where}: {group} has no {key!r}; there are {', '.join(allowed)}")

    def evaluated(group: str) -> Evaluated:
        return Evaluated(*(_texts(groups[group], key, f"{where}: {group}") for key in ("validation", "test")))

    return SplitRules(
        held_out_categories=_texts(groups["fully_held_out"], "categories", f"{where}: fully_held_out"),
        fully_held_out=evaluated("fully_held_out"),
        partially_supervised=evaluated("partially_supervised"),
        fully_supervised=evaluated("fully_supervised"),
        evaluation_only=evaluated("evaluation_only"),
        broad_sources=_texts(document, "broad_sources", where),
    )


def _texts(said: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = said.get(key) or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{where}, {key}: expected a list of texts, got {value!r}")
    return tuple(value)
