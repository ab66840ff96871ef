"""Benchmark reader of FLAN (arXiv 2109.01652): ten templates for each dataset, up to three of them inverted.

::

    templates.py     PATTERNS = {"rte": [("{premise}\\n\\nCan we conclude ...?\\n\\n{options_}", "{answer}"), ...], ...}

is the file flan/templates.py of google-research/FLAN; its dict is read as a literal, no code is run. A YAML or JSON
file that maps tasks to pairs of patterns is read, too. ``flan_datasets.py`` makes the columns of the templates from the
rows of each dataset; ``FlanRows`` names other sources of rows, and declares tasks of your own.
"""

import ast
import hashlib
import heapq
import json
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ..data_files import format_of, read_json, read_text
from ..messages import MissingFiles, expanded, kind, nearest
from ..rendering.prompts import rendering_rng
from ..schema import Example, Task
from ..tracked_files import note
from ..yaml_files import read_yaml
from .benchmark import Benchmark, Split
from .flan_datasets import (
    FIELD,
    OPTIONS,
    AnsweredRow,
    FlanDataset,
    answered_row,
    filled,
    flan_datasets,
    reads_null,
    separate_rows,
)
from .levels.taxonomy import category_of_name
from .rows.row import Row, error_prefix
from .templates.template_rows import RowSource, files_of_rows, template_rows, template_rows_digest

READER_VERSION = 2
"""Part of every fingerprint: raise it when the same file is to be read differently."""


@dataclass(frozen=True)
class FlanRows(RowSource):
    """Declares where the rows of one FLAN task come from, and the options and answers of a task of your own.

    The fields that are not listed here say which file or hub dataset is read, and how its columns are renamed.

    Args:
        options: Texts of the options, with ``{column}`` filled in from the row: ``["yes", "no"]`` or ``["{choice1}",
            "{choice2}"]``. If empty, those of FLAN's dataset with the task's name, or the column ``options``.
        label: Column with the index of the correct option, from 0; -1 is a row whose answer is not published. None for
            FLAN's own, or for rows with a column ``answer``.
    """

    options: list[str] = field(default_factory=list)
    label: str | None = None


class FLAN(Benchmark):
    """Reads FLAN's datasets (arXiv 2109.01652): rows from the hub or files, rendered with FLAN's templates.

    By default, every row is rendered with one random template, since OPT-IML draws as many prompts as there are
    examples (arXiv 2212.12017, section 4.1).

    Args:
        templates: FLAN's flan/templates.py, or a .yaml or .json file with the same content.
        rows: Source of rows for each task; None for every dataset of FLAN that the hub has in this split. ``{}`` for a
            task of FLAN is its dataset on the hub; a file has the columns of the hub or of the templates.
        split: The datasets' official split to read: ``train``, ``validation`` or ``test``. For any other split,
            ``task_names`` lists no task.
        inverted: Whether to use inverted templates too: those whose target is another column than that of most of the
            task's templates, or whose prompt lacks the column that most prompts have.
        cap: Maximum number of rows of a task, drawn at random, since files may be sorted by label; FLAN and OPT-IML use
            30,000. None reads all.
        prompts: ``one`` renders a row with one random template; ``all`` renders it with every template, as OPT-IML does
            for evaluation.
        rows_folder: Instead of `rows`: a folder with the files ``<split>/<task>.jsonl``, as ``crosstask download``
            writes them. Datasets without a file are left out and reported.
        seed: Seed of the choices of rows and templates.

    Raises:
        ValueError: Both `rows` and `rows_folder` are given, `cap` is not positive, or `prompts` or `split` is unknown.
    """

    name = "flan"

    def __init__(
        self,
        templates: str,
        rows: dict[str, FlanRows] | None = None,
        split: Split = "train",
        inverted: bool = False,
        cap: int | None = 30_000,
        prompts: Literal["one", "all"] = "one",
        rows_folder: str = "",
        seed: int = 0,
    ) -> None:
        if rows is not None and rows_folder:
            raise ValueError("rows and rows_folder both name the rows: set one of them")
        if prompts not in ("one", "all"):
            raise ValueError(f"prompts must be 'one' or 'all', got {prompts!r}")
        if cap is not None and cap <= 0:
            raise ValueError(f"cap must be a positive number of rows, got {cap}")
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {list(get_args(Split))}, got {split!r}")
        self.path = expanded(templates)
        self._configured, self.rows_folder = rows, rows_folder and str(expanded(rows_folder))
        self.split, self.inverted, self.cap, self.prompts, self.seed = split, inverted, cap, prompts, seed

    def task_names(self, split: Split) -> list[str]:
        """Return the names of all tasks for the split that is read; other splits are empty."""
        return sorted(self.rows) if split == self.split else []

    @cached_property
    def rows(self) -> dict[str, FlanRows]:
        """Source of rows by task, by `rows` or `rows_folder`; without both, all of FLAN's datasets in this split."""
        if self._configured is not None:
            return dict(self._configured)
        of_hub = _rows_of_hub(self.split)
        if not self.rows_folder:
            return of_hub
        files = files_of_rows(self.rows_folder, self.split)
        return {name: FlanRows(source=files[name]) for name in of_hub if name in files}

    def left_out(self) -> Mapping[str, str]:
        """Return the datasets of FLAN without a file in `rows_folder`, with the reason."""
        names = _rows_of_hub(self.split) if self.rows_folder else {}
        return {name: f"no rows in {self.rows_folder}" for name in names if name not in self.rows}

    def task(self, name: str) -> Task:
        """Return a task's metadata; tasks with options are scored by accuracy, others by ROUGE-L."""
        with error_prefix(self.name, name):
            source, dataset = self._declared(name), self._dataset(name)
            return Task(
                benchmark=self.name,
                name=name,
                category=category_of_name(self.name, name),
                instruction_level="instance",
                parent=source.parent,
                sources=(source.parent or name,),
                metric="accuracy" if dataset.options or dataset.label else "rouge_l",
            )

    def examples(self, name: str) -> Iterator[Example]:
        """Yield at most `cap` rows of the task in the order of their file, rendered with one template or all."""
        with error_prefix(self.name, name):
            dataset, templates = self._dataset(name), self._templates(name)
            rows = enumerate(separate_rows(template_rows(self._source(name), name), dataset))
            first, end = dataset.rows or (0, None)
            for index, row in self._drawn(islice(rows, first, end), name):
                answered = answered_row(row, dataset)
                rng = rendering_rng(self.seed, name, str(index))
                drawn = templates if self.prompts == "all" else [rng.choice(templates)]
                for template in drawn:
                    suffix = f"-{template.label}" if self.prompts == "all" else ""
                    yield _example(name, f"{name}-{index}{suffix}", index, template, answered)

    def fingerprint(self, name: str) -> str:
        with error_prefix(self.name, name):
            dataset = asdict(self._dataset(name))
            settings = [READER_VERSION, name, dataset, self.inverted, self.cap, self.prompts, self.seed, self.split]
            patterns = [tuple(template) for template in self._templates(name)]
            source = self._source(name)
            parts = [json.dumps([*settings, asdict(source), patterns]), template_rows_digest(source, name)]
            return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def _drawn(self, rows: Iterator[tuple[int, Row]], name: str) -> Iterator[tuple[int, Row]]:
        """Yield at most `cap` of the rows, drawn at random, in their order; other rows are not kept in memory."""
        if self.cap is None:
            return rows
        rng = random.Random(hashlib.sha256(repr((self.seed, "rows", name)).encode()).digest())
        drawn = heapq.nsmallest(self.cap, ((rng.random(), index, row) for index, row in rows), key=lambda row: row[:2])
        return iter(sorted((index, row) for _, index, row in drawn))

    def _source(self, name: str) -> FlanRows:
        """Return the source of the rows; if none is declared, FLAN's dataset of this name on the hub."""
        source, shipped = self._declared(name), flan_datasets().get(name)
        if source.source is not None:
            return source
        if shipped is None:
            raise ValueError(
                f"its rows have no `source`, and it is not a dataset of FLAN; {nearest(name, flan_datasets())}; name a "
                "file or a dataset of the hub"
            )
        if shipped.source is None:
            raise ValueError("its rows have no `source`, and upstream publishes none on the hub; name a file of them")
        if self.split not in shipped.splits:
            raise ValueError(f"it has no official {self.split} split; there are {', '.join(shipped.splits)}")
        return replace(source, source=shipped.source, config=shipped.config, split=shipped.splits[self.split])

    def _declared(self, name: str) -> FlanRows:
        if name not in self.rows:
            if reason := self.left_out().get(name):
                raise MissingFiles(reason)
            raise ValueError(f"no such task among {len(self.rows)}; {nearest(name, self.rows)}")
        return self.rows[name]

    def _dataset(self, name: str) -> FlanDataset:
        """Return the rules for a dataset's columns: those of FLAN, overridden by the declaration of its source."""
        source = self._declared(name)
        dataset = flan_datasets().get(name, FlanDataset())
        if source.options:
            dataset = replace(dataset, options=source.options, number_of_options=None)
        if source.label:
            dataset = replace(dataset, label={"from": source.label})
        return replace(
            dataset,
            templates=source.templates or dataset.templates,
            rows=dataset.rows if source.source is None else None,  # a file of your own is read whole
        )

    def _templates(self, name: str) -> list["_Pattern"]:
        key = self._dataset(name).templates or name
        if key not in self._patterns:
            raise ValueError(f"{self.path} has no templates {key!r}; {nearest(key, self._patterns)}")
        templates = self._patterns[key]
        return templates if self.inverted else original_templates(templates, self._constants(name))

    def _constants(self, name: str) -> set[str]:
        return {*self._declared(name).constants, *self._dataset(name).constants}

    @cached_property
    def _patterns(self) -> dict[str, list["_Pattern"]]:
        return {task: _patterns(pairs, f"{self.path}, task {task}") for task, pairs in _mapping(self.path).items()}


class _Pattern(NamedTuple):
    label: str
    source: str
    target: str


def _rows_of_hub(split: Split) -> dict[str, FlanRows]:
    """Return every dataset of FLAN that the hub has in a split."""
    names = [name for name, dataset in flan_datasets().items() if dataset.source and split in dataset.splits]
    return {name: FlanRows() for name in names}


def original_templates(templates: Sequence[_Pattern], constants: Collection[str] = ()) -> list[_Pattern]:
    """Return a task's templates without the inverted ones, which e.g. ask for a question instead of its answer.

    A template is inverted if its target is another column than that of most templates, or if its prompt lacks the
    column that most prompts have.

    Args:
        templates: All templates of the task.
        constants: Columns with the same value in every row, such as the name of a language; they are not counted.

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


def _example(task: str, id: str, index: int, template: _Pattern, answered: AnsweredRow) -> Example:
    text, target = filled(template.source, answered.row), filled(template.target, answered.row)
    null = reads_null(template.source + template.target, answered.row)
    skipped = answered.skipped or (
        "a column of the template is null" if null else "" if target.strip() else "no answer"
    )
    if skipped:
        return Example(task, id, index, text, (), template.label, skipped=skipped)
    # The options belong to the answer; an inverted template has another target.
    has_answer = FIELD.fullmatch(template.target) is not None and target == answered.row.fields.get("answer")
    options, answer = (answered.options, answered.answer) if has_answer else ((), None)
    return Example(task, id, index, text, (target,), template.label, options, answer)


def _mapping(path: Path) -> Mapping[str, Any]:
    """Return the content of a file of templates: pairs of patterns by task."""
    if not path.is_file():
        note(path)
        raise MissingFiles(f"no file {path}; expected FLAN's flan/templates.py, or a .yaml or .json file of patterns")
    readers = {".json": read_json, ".py": _python_patterns}
    content = readers.get(format_of(path), read_yaml)(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected PATTERNS to map tasks to pairs of patterns, got {kind(content)}")
    return content


def _python_patterns(path: Path) -> object:
    text = read_text(path)
    try:
        return _python_literal(text)
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: PATTERNS must hold literals only, since no code is run: {error}") from error


def _python_literal(text: str) -> object:
    """Return the dict that is assigned to PATTERNS, without running code; None if there is none."""
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
