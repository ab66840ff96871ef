"""FLAN: ten templates for each dataset, up to three of them inverted, over rows of datasets.

::

    templates.py     PATTERNS = {"rte": [("{premise}\\n\\nCan we conclude ...?\\n\\n{options_}", "{answer}"), ...], ...}

is the file flan/templates.py of google-research/FLAN; its dict is read as a literal, no code is run. A YAML or JSON
file that maps tasks to pairs of patterns is read, too. ``FlanRows`` declares how each dataset's rows are preprocessed.
"""

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from ..messages import MissingFiles, expanded, kind, nearest
from ..rendering.prompts import rendering_rng
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .rows import Row, error_prefix
from .taxonomy import shipped_taxonomy
from .template_rows import RowSource, template_rows, template_rows_digest

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

FIELD = re.compile(r"\{(\w+)\}")
OPTIONS = ("options_", "options_str")  # fields of a pattern that list the options


@dataclass(frozen=True)
class FlanRows(RowSource):
    """Source of a task's rows, with its options and answer.

    Args:
        options: The options as patterns over the row's columns, ``["yes", "no"]`` or ``["{choice1}", "{choice2}"]``; by
            default the column ``options``, if the row has one.
        label: Column with the number of the gold option, from 0, which fills the column ``answer``; -1 is a row whose
            answer is not published. By default rows have the column ``answer``.
    """

    options: list[str] = field(default_factory=list)
    label: str | None = None


class FLAN(Benchmark):
    """Reads FLAN's templates over rows of datasets.

    Every row is rendered with one random template, since OPT-IML draws as many prompts as there are examples (section
    4.1); ``prompts="all"`` renders every row with every template, as the paper does for evaluation.

    Args:
        templates: FLAN's flan/templates.py, or a .yaml or .json file with the same content.
        rows: Source of rows for each task.
        inverted: Whether to keep inverted templates: those whose target is another column than that of most of the
            task's templates, or whose prompt lacks the column that most prompts have.
        cap: Most rows of a task, the first ones; FLAN and OPT-IML use 30,000. None: all.
        prompts: Whether a row is rendered with one template or with all.
        seed: Seed of the choice of templates.
    """

    name = "flan"

    def __init__(
        self,
        templates: str,
        rows: dict[str, FlanRows],
        inverted: bool = False,
        cap: int | None = 30_000,
        prompts: Literal["one", "all"] = "one",
        seed: int = 0,
    ) -> None:
        if prompts not in ("one", "all"):
            raise ValueError(f"prompts must be 'one' or 'all', got {prompts!r}")
        if cap is not None and cap <= 0:
            raise ValueError(f"cap must be a positive number of rows, got {cap}")
        self.path = Path(expanded(templates))
        self.rows, self.inverted, self.cap, self.prompts, self.seed = dict(rows), inverted, cap, prompts, seed

    def task_names(self, split: Split) -> list[str]:
        """All tasks are training tasks; the rules of a split hold out FLAN's clusters."""
        return sorted(self.rows) if split == "train" else []

    def task(self, name: str) -> Task:
        with error_prefix(self.name, name):
            source = self._source(name)
            return Task(
                benchmark=self.name,
                name=name,
                category=shipped_taxonomy().category(self.name, name),
                instruction_level="instance",
                parent=source.parent,
                sources=(source.parent or name,),
                metric="accuracy" if source.options or source.label else "rouge_l",
            )

    def examples(self, name: str) -> Iterator[Example]:
        """The first `cap` rows of the task, rendered with one template or all."""
        with error_prefix(self.name, name):
            source, templates = self._source(name), self._templates(name)
            if source.source is None:
                raise ValueError("its rows have no `source`; name a file or a dataset of the hub")
            for index, row in enumerate(islice(template_rows(source, name), self.cap)):
                answered = _answered(row, source)
                rng = rendering_rng(self.seed, name, str(index))
                drawn = templates if self.prompts == "all" else [rng.choice(templates)]
                for template in drawn:
                    suffix = f"-{template.label}" if self.prompts == "all" else ""
                    yield _example(name, f"{name}-{index}{suffix}", index, template, answered)

    def fingerprint(self, name: str) -> str:
        with error_prefix(self.name, name):
            source = self._source(name)
            settings = [READER_VERSION, name, asdict(source), self.inverted, self.cap, self.prompts, self.seed]
            patterns = [tuple(template) for template in self._templates(name)]
            parts = [json.dumps([*settings, patterns]), template_rows_digest(source, name)]
            return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def _source(self, name: str) -> FlanRows:
        if name not in self.rows:
            raise ValueError(f"no such task among {len(self.rows)}; {nearest(name, self.rows)}")
        return self.rows[name]

    def _templates(self, name: str) -> list["_Pattern"]:
        key = self._source(name).templates or name
        if key not in self._patterns:
            raise ValueError(f"{self.path} has no templates {key!r}; {nearest(key, self._patterns)}")
        templates = self._patterns[key]
        return templates if self.inverted else original_templates(templates, self._source(name).constants)

    @cached_property
    def _patterns(self) -> dict[str, list["_Pattern"]]:
        return {task: _patterns(pairs, f"{self.path}, task {task}") for task, pairs in _mapping(self.path).items()}


class _Pattern(NamedTuple):
    label: str
    source: str
    target: str


class _AnsweredRow(NamedTuple):
    row: Row
    options: tuple[str, ...]
    answer: int | None
    skipped: str


def original_templates(templates: Sequence[_Pattern], constants: Collection[str] = ()) -> list[_Pattern]:
    """The templates that are not inverted; `constants` are columns with the same value in every row.

    >>> asks = [_Pattern("0", "{text} Subject?", "{subject}"), _Pattern("1", "Subject of {text}?", "{subject}")]
    >>> turned = [_Pattern("2", "Write about {subject}.", "{text}"), _Pattern("3", "Write a subject.", "{subject}")]
    >>> [template.label for template in original_templates([*asks, *turned])]
    ['0', '1']
    """
    targets = Counter(template.target for template in templates)
    usual = [template for template in templates if template.target == targets.most_common(1)[0][0]]
    read = Counter(name for template in usual for name in set(FIELD.findall(template.source)) - {*OPTIONS, *constants})
    if not read:
        return usual
    most = max(read.values())
    common = {name for name, count in read.items() if count == most}
    return [template for template in usual if common & set(FIELD.findall(template.source))]


def _answered(row: Row, source: FlanRows) -> _AnsweredRow:
    """The row with its options as text and its answer in words."""
    fields = dict(row.fields)
    options = tuple(_filled(option, row) for option in source.options) or row.texts("options", default=())
    skipped = ""
    if source.label is not None:
        label = row.integer(source.label)
        if not -1 <= label < len(options):
            raise row.error(f"{source.label!r} is {label}, and there are {len(options)} options")
        skipped = "no label" if label == -1 else ""
        fields["answer"] = options[label]
    if not all(option.strip() for option in options):
        skipped = "an option is empty"
    fields |= dict.fromkeys(OPTIONS, "OPTIONS:" + "".join(f"\n- {option}" for option in options))
    answer = fields.get("answer")
    if options and not skipped and answer not in options:
        skipped = "the answer is none of the options"
    place = options.index(answer) if answer in options else None
    return _AnsweredRow(Row(fields, row.location), options, place, skipped)


def _example(task: str, id: str, index: int, template: _Pattern, answered: _AnsweredRow) -> Example:
    text, target = _filled(template.source, answered.row), _filled(template.target, answered.row)
    skipped = answered.skipped or ("" if target.strip() else "no answer")
    if skipped:
        return Example(task, id, index, text, (), template.label, skipped=skipped)
    # The options belong to the answer; an inverted template has another target.
    has_answer = FIELD.fullmatch(template.target) is not None and target == answered.row.fields.get("answer")
    options, answer = (answered.options, answered.answer) if has_answer else ((), None)
    return Example(task, id, index, text, (target,), template.label, options, answer)


def _filled(pattern: str, row: Row) -> str:
    """The pattern with the row's columns filled in; braces around anything else are kept, as in FLAN."""
    return FIELD.sub(lambda match: _text(row.value(match[1])), pattern)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _mapping(path: Path) -> Mapping[str, Any]:
    """The content of a file of templates: pairs of patterns by task."""
    if not path.is_file():
        raise MissingFiles(f"no file {path}; expected FLAN's flan/templates.py, or a .yaml or .json file of patterns")
    try:
        text = path.read_text(encoding="utf-8")
        content = _python_literal(text) if path.suffix == ".py" else yaml.safe_load(text)
    except (SyntaxError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: PATTERNS must hold literals only, since no code is run: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected PATTERNS to map tasks to pairs of patterns, got {kind(content)}")
    return content


def _python_literal(text: str) -> object:
    """The dict that is assigned to PATTERNS, without running code."""
    for statement in ast.parse(text).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "PATTERNS" for target in targets):
            return ast.literal_eval(statement.value)  # type: ignore[attr-defined]
    return None


def _patterns(pairs: object, place: str) -> list[_Pattern]:
    if not isinstance(pairs, list | tuple) or not pairs:
        raise ValueError(f"{place}: expected a list of pairs (prompt, answer), got {kind(pairs)}")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"{place}: template {number} should be a pair of texts (prompt, answer), got {kind(pair)}")
    return [_Pattern(str(number), *pair) for number, pair in enumerate(pairs)]
