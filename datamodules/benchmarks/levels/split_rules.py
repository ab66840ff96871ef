"""Rules of a bench, read from a YAML file: the tasks that train, and those evaluated at each level of generalization.

::

    collections: [flan, promptsource*]    # collections whose own splits are ignored: the rules decide for their tasks
    fully_held_out:                       # no task of these categories trains
      categories: [Textual Entailment, Word Analogy]
      validation: [wino_bias]             # evaluated tasks: datasets of data/dataset_identities.yaml,
      test: ["mine/*"]                    # or patterns of "collection/task", which have a slash
    partially_supervised:                 # evaluated tasks that do not train; others of their categories do
      test:
        Question Answering: [race]        # only the tasks on RACE that are in this category
    fully_supervised:                     # tasks that train, and are evaluated on instances that do not
      test: [squad_v1]
    evaluation_only:                      # tasks that never train; their level follows from the training tasks
      test: ["bbh/*"]
    not_trained: [banking77]              # more datasets that do not train, since tables of results include them
    also_train: [reasoning/esnli]         # tasks that train although their dataset is evaluated, or although their
                                          # collection lists them for test alone
    broad_sources: [wikipedia]            # data that training and evaluation tasks may share

In the collections under ``collections``, all other tasks train, including those that their collection lists for test. A
dataset that is named under ``fully_held_out``, ``partially_supervised`` or ``not_trained`` trains in none of them and
in no category, whether or not its evaluation task is available.

The tasks of any other collection keep their own splits: those that it lists for training train, those that it lists for
test alone do not. Of these collections, the rules decide only for tasks that a pattern with a slash matches. Without
``collections``, categories and datasets hold out and evaluate tasks of all collections, and all other tasks keep their
own splits. ``*`` stands for whole words (``name_patterns.py``): ``*/*wic*`` is not ``mine/copy_twice``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...messages import expanded, nearest
from ...schema import Task
from ...yaml_files import read_yaml
from .name_patterns import matches_any, name_matches

SHIPPED = Path(__file__).parents[1] / "data"

LISTS = ("not_trained", "also_train", "broad_sources")
"""Keys of the YAML file that hold a list of names."""

COLLECTIONS = "collections"
"""Key of the YAML file for the collections whose own splits do not count."""

GROUPS = ("fully_held_out", "partially_supervised", "fully_supervised", "evaluation_only")
"""Keys of the YAML file that group evaluation tasks by the level at which they should be evaluated."""


class Entry(NamedTuple):
    """Names one or more tasks in the rules for evaluation, by their dataset or by a pattern of their names.

    Args:
        name: A dataset of ``data/dataset_identities.yaml``, or a pattern of ``collection/task`` if it has a slash;
            ``*`` matches whole words.
        category: Category that the tasks must have; empty for any.
    """

    name: str
    category: str = ""

    @property
    def dataset(self) -> str | None:
        """The dataset; None for a pattern."""
        return None if "/" in self.name else self.name

    def matches(self, task: Task) -> bool:
        """Return whether the entry names a task."""
        named = task.dataset == self.name if self.dataset else name_matches(task.name, self.name)
        return named and self.category in ("", task.category)

    def __str__(self) -> str:
        return f"{self.name} of {self.category}" if self.category else self.name


@dataclass(frozen=True)
class EvaluationEntries:
    """The tasks that rules evaluate at one level of generalization, as entries that each name one or more tasks.

    Args:
        validation: Entries of tasks that are evaluated during training.
        test: Entries of tasks that are tested.
    """

    validation: tuple[Entry, ...] = ()
    test: tuple[Entry, ...] = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, each once."""
        return tuple(dict.fromkeys((*self.validation, *self.test)))


@dataclass(frozen=True)
class SplitRules:
    """Rules for which tasks train and which are evaluated; the head of this file explains them with an example.

    Args:
        held_out_categories: Categories of which no task trains.
        fully_held_out: Evaluation tasks of these categories.
        partially_supervised: Evaluation tasks that do not train, while others of their categories do.
        fully_supervised: Evaluation tasks that also train.
        evaluation_only: Evaluation tasks that never train.
        not_trained: More datasets that do not train.
        also_train: Patterns of tasks that train although their dataset is evaluated, or although their collection lists
            them for test alone.
        broad_sources: Sources that training and evaluation tasks may share, e.g. ``wikipedia``.
        collections: Patterns of the collections whose own splits are ignored. With None, all collections keep their
            splits, and categories and datasets of the rules apply to all of them.
    """

    held_out_categories: tuple[str, ...] = ()
    fully_held_out: EvaluationEntries = EvaluationEntries()
    partially_supervised: EvaluationEntries = EvaluationEntries()
    fully_supervised: EvaluationEntries = EvaluationEntries()
    evaluation_only: EvaluationEntries = EvaluationEntries()
    not_trained: tuple[str, ...] = ()
    also_train: tuple[str, ...] = ()
    broad_sources: tuple[str, ...] = ()
    collections: tuple[str, ...] | None = None

    def decides(self, task: Task) -> bool:
        """Return whether the categories and datasets of the rules apply to the task's collection."""
        return self.collections is None or self.replaces_splits(task)

    def replaces_splits(self, task: Task) -> bool:
        """Return whether the rules replace the splits of the task's collection."""
        return matches_any(task.name.partition("/")[0], self.collections or ())

    def applies(self, entry: Entry, task: Task) -> bool:
        """Return whether an entry names a task; datasets are compared only in collections that the rules decide for."""
        return (entry.dataset is None or self.decides(task)) and entry.matches(task)

    def of_group(self, group: str) -> EvaluationEntries:
        """Return the evaluation tasks of a group, one of ``GROUPS``."""
        evaluated: EvaluationEntries = getattr(self, group)
        return evaluated

    @property
    def held_out_datasets(self) -> frozenset[str]:
        """Datasets that the rules keep out of training."""
        groups = (self.fully_held_out, self.partially_supervised)
        return frozenset(self.not_trained).union(
            entry.dataset for group in groups for entry in group.entries if entry.dataset
        )

    def datasets(self) -> list[str]:
        """Return all datasets that the rules name, with repetitions."""
        groups = (self.fully_held_out, self.partially_supervised, self.fully_supervised, self.evaluation_only)
        return [*(e.dataset for group in groups for e in group.entries if e.dataset), *self.not_trained]


def read_rules(name: str) -> SplitRules:
    """Return installed rules, or the rules of a YAML file.

    Args:
        name: ``opt_iml`` for OPT-IML's rules; ``all`` for those of OPT-IML-Max, by which everything trains but the
            tasks of evaluation-only collections; or the path of a YAML file.

    Raises:
        ValueError: The file is missing, or it has an unknown key.
    """
    if name == "all":
        return without_held_out_tasks(read_rules("opt_iml"))
    shipped = {path.stem.removesuffix("_levels"): path for path in SHIPPED.glob("*_levels.yaml")}
    path = shipped.get(name, expanded(name))
    if not path.is_file():
        raise ValueError(f"no rules {name!r}: expected a YAML file, or one of all, {', '.join(sorted(shipped))}")
    return _rules(read_yaml(path) or {}, str(path))


def without_held_out_tasks(rules: SplitRules) -> SplitRules:
    """Return rules by which every task trains, as for OPT-IML-Max, except those of the group ``evaluation_only``.

    Tasks on the validation datasets of `rules` are validated on instances that do not train. Only evaluation-only tasks
    are tested, so that no training task loses instances to a test.
    """
    groups = (rules.fully_supervised, rules.fully_held_out, rules.partially_supervised)
    validation = tuple(dict.fromkeys(entry for group in groups for entry in group.validation if entry.dataset))
    return SplitRules(
        fully_supervised=EvaluationEntries(validation=validation),
        evaluation_only=rules.evaluation_only,
        broad_sources=rules.broad_sources,
        collections=rules.collections,
    )


def leave_one_category_out(category: str) -> SplitRules:
    """Return rules that evaluate one category and train no task of it.

    This is FLAN's protocol (arXiv 2109.01652, section 2.2).
    """
    return SplitRules(held_out_categories=(category,), fully_held_out=EvaluationEntries(test=(Entry("*/*"),)))


def _rules(document: Mapping[str, Any], where: str) -> SplitRules:
    allowed_keys = (COLLECTIONS, *GROUPS, *LISTS)
    for key in document:
        if key not in allowed_keys:
            close = nearest(str(key), allowed_keys)
            raise ValueError(f"{where}: no {key!r} in rules; {close}; there are {', '.join(allowed_keys)}")
    groups = {group: document.get(group) or {} for group in GROUPS}
    for group, content in groups.items():
        allowed = ("validation", "test", *(["categories"] if group == "fully_held_out" else []))
        for key in content:
            if key not in allowed:
                raise ValueError(f"{where}: {group} has no {key!r}; there are {', '.join(allowed)}")

    def evaluated(group: str) -> EvaluationEntries:
        return EvaluationEntries(*(_entries(groups[group], key, f"{where}: {group}") for key in ("validation", "test")))

    return SplitRules(
        held_out_categories=_texts(groups["fully_held_out"], "categories", f"{where}: fully_held_out"),
        fully_held_out=evaluated("fully_held_out"),
        partially_supervised=evaluated("partially_supervised"),
        fully_supervised=evaluated("fully_supervised"),
        evaluation_only=evaluated("evaluation_only"),
        **{key: _texts(document, key, where) for key in LISTS},
        collections=_texts(document, COLLECTIONS, where) if COLLECTIONS in document else None,
    )


def _entries(content: Mapping[str, Any], key: str, where: str) -> tuple[Entry, ...]:
    """Return the entries of a list, or of lists by category."""
    value = content.get(key) or []
    if isinstance(value, dict):
        return tuple(Entry(name, category) for category in value for name in _texts(value, category, f"{where}, {key}"))
    return tuple(map(Entry, _texts(content, key, where)))


def _texts(content: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = content.get(key) or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{where}, {key}: expected a list of texts, got {value!r}")
    return tuple(value)
