"""Rules, in a YAML file, of which tasks train and which are evaluated at which level of generalization.

::

    fully_held_out:                       # no task of these categories trains
      categories: [Textual Entailment, Word Analogy]
      validation: ["*/winobias*"]         # evaluated; patterns are matched against "collection/task"
      test: ["*"]
    partially_supervised:                 # these tasks do not train, other tasks of their categories do
      test: ["*/race*"]
    fully_supervised:                     # these train, and are evaluated on held-out instances
      test: ["*/squad*"]
    evaluation_only:                      # never trained, at whatever level follows from the training tasks
      test: ["bbh/*"]
    broad_sources: [wikipedia]            # data that training and evaluation tasks may share

All other tasks train.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..messages import nearest

SHIPPED = Path(__file__).parent / "data"


GROUPS = ("fully_held_out", "partially_supervised", "fully_supervised", "evaluation_only")


@dataclass(frozen=True)
class EvaluationPatterns:
    """Name patterns of a group's evaluation tasks; ``*`` matches any text."""

    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitRules:
    """The content of a YAML file of rules; the head of this file has an example.

    Args:
        held_out_categories: Categories none of whose tasks train.
        fully_held_out: Evaluation tasks of these categories.
        partially_supervised: Evaluation tasks that do not train, while others of their categories do.
        fully_supervised: Evaluation tasks that also train.
        evaluation_only: Evaluation tasks that never train.
        broad_sources: Sources that training and evaluation tasks may share.
    """

    held_out_categories: tuple[str, ...] = ()
    fully_held_out: EvaluationPatterns = EvaluationPatterns()
    partially_supervised: EvaluationPatterns = EvaluationPatterns()
    fully_supervised: EvaluationPatterns = EvaluationPatterns()
    evaluation_only: EvaluationPatterns = EvaluationPatterns()
    broad_sources: tuple[str, ...] = ()


def read_rules(name: str) -> SplitRules:
    """The shipped rules ``opt_iml``, or the rules of a YAML file.

    ``all`` are OPT-IML's rules with every held-out task in training (OPT-IML-Max): all evaluation tasks are fully
    supervised.

    Raises:
        ValueError: The file is missing, or it has an unknown key.
    """
    if name == "all":
        return without_held_out_tasks(read_rules("opt_iml"))
    shipped = {path.stem.removesuffix("_levels"): path for path in SHIPPED.glob("*_levels.yaml")}
    path = shipped.get(name, Path(name).expanduser())
    if not path.is_file():
        raise ValueError(f"no rules {name!r}: expected a YAML file, or one of all, {', '.join(sorted(shipped))}")
    return _rules(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, str(path))


def without_held_out_tasks(rules: SplitRules) -> SplitRules:
    """The rules with the same evaluation tasks, all fully supervised: only instances are held out."""
    groups = (rules.fully_supervised, rules.fully_held_out, rules.partially_supervised)
    joined = EvaluationPatterns(
        *(tuple(dict.fromkeys(p for group in groups for p in getattr(group, s))) for s in ("validation", "test"))
    )
    # "*" matches every task of the held-out categories; without held-out categories it would match all tasks.
    joined = EvaluationPatterns(
        *(tuple(p for p in patterns if p != "*") for patterns in (joined.validation, joined.test))
    )
    return SplitRules(fully_supervised=joined, evaluation_only=rules.evaluation_only, broad_sources=rules.broad_sources)


def leave_one_category_out(category: str) -> SplitRules:
    """Rules that hold out one category and evaluate it (the protocol of FLAN, arXiv 2109.01652, section 2.2)."""
    return SplitRules(held_out_categories=(category,), fully_held_out=EvaluationPatterns(test=("*",)))


def _rules(document: Mapping[str, Any], where: str) -> SplitRules:
    allowed_keys = (*GROUPS, "broad_sources")
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

    def evaluated(group: str) -> EvaluationPatterns:
        return EvaluationPatterns(*(_texts(groups[group], key, f"{where}: {group}") for key in ("validation", "test")))

    return SplitRules(
        held_out_categories=_texts(groups["fully_held_out"], "categories", f"{where}: fully_held_out"),
        fully_held_out=evaluated("fully_held_out"),
        partially_supervised=evaluated("partially_supervised"),
        fully_supervised=evaluated("fully_supervised"),
        evaluation_only=evaluated("evaluation_only"),
        broad_sources=_texts(document, "broad_sources", where),
    )


def _texts(content: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = content.get(key) or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{where}, {key}: expected a list of texts, got {value!r}")
    return tuple(value)
