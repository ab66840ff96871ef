"""Benchmark reader of P3, T0's training data (arXiv 2110.08207): rows already rendered with PromptSource's templates.

::

    folder/wiki_qa_Is_This_True_.jsonl      {"prompt": "Question: how are ...", "completion": "No<|endoftext|>"}
    bigscience/P3, wiki_qa_Is_This_True_    {"inputs_pretokenized": "Question ...", "targets_pretokenized": "No", ...}

There is one file, or one configuration on the hub, per template. A task is a dataset; its templates are the files whose
names begin with the dataset's name. ``promptsource.py`` renders the templates itself.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

from ..data_files import format_of
from ..folder_files import files_in
from ..messages import counted, expanded, nearest, some
from ..rendering.prompts import rendering_rng
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .levels.name_patterns import name_matches
from .levels.taxonomy import category_of_name
from .rows.row import Row, error_prefix
from .rows.row_files import SUFFIXES, read_rows
from .rows.source_digests import source_digest
from .rows.unread_files import unread_files, unread_line
from .templates.template_rows import named_files

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

DATASETS = Path(__file__).parent / "data" / "p3_datasets.txt"
"""File of the dataset names that begin P3's file names: PromptSource's datasets and subsets, one per line."""

COLUMNS = (("prompt", "completion"), ("inputs_pretokenized", "targets_pretokenized"), ("inputs", "targets"))
"""Columns of prompt and answer in different copies of P3; the first pair that a row has is read."""

SCORE_EVAL = ("*_score_eval",)
"""Patterns of P3's templates for ranking, which repeat others."""

END = "<|endoftext|>"  # ends the answers in copies for GPT-3


class P3(Benchmark):
    """Reads P3, T0's training data (arXiv 2110.08207), whose rows are rendered with PromptSource's templates already.

    Each template's file holds all rows of the dataset. A task is as large as its dataset: for each row index, one
    template is drawn. The files do not say which rows render the same example, and a template that omits rows has other
    indices than the rest. For a task that both trains and is tested on held-out instances, ``PromptSource``, which
    renders the templates itself, is the safer reader.

    Args:
        source: Folder with a file for each template, or a hub dataset with a configuration for each: ``bigscience/P3``,
            ``"bigscience/P3@revision"``.
        prompts: ``one`` draws one template for each row index; ``all`` reads every row of every file.
        without: Patterns of templates to leave out, with ``*`` for whole words; by default P3's templates for ranking.
        datasets: Dataset names with which template names may begin; the longest match counts. None for PromptSource's.
        split: Split of a hub dataset.
        seed: Seed of the choice of templates.
    """

    name = "p3"

    def __init__(
        self,
        source: str,
        prompts: Literal["one", "all"] = "one",
        without: Sequence[str] = SCORE_EVAL,
        datasets: list[str] | None = None,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        if prompts not in ("one", "all"):
            raise ValueError(f"prompts must be 'one' or 'all', got {prompts!r}")
        self.source = str(expanded(source))
        self.prompts, self.without, self.split, self.seed = prompts, tuple(without), split, seed
        self.datasets = tuple(datasets) if datasets is not None else tuple(DATASETS.read_text().split())

    def task_names(self, split: Split) -> list[str]:
        """Return the names of all tasks for the split "train"; P3 has no split of tasks."""
        return sorted(self._templates_of) if split == "train" else []

    def task(self, name: str) -> Task:
        """Return a task's metadata; P3's files state no metric, so that it is ROUGE-L."""
        self._templates(name)
        return Task(
            benchmark=self.name,
            name=name,
            category=category_of_name(self.name, name),
            instruction_level="instance",
            sources=(name,),
        )

    def examples(self, name: str) -> Iterator[Example]:
        """Yield for each row index the row of one template; with ``prompts="all"`` all rows, template by template."""
        with error_prefix(self.name, name):
            templates = self._templates(name)
            if self.prompts == "all":
                for template in templates:
                    for index, row in enumerate(self._rows(template)):
                        yield _example(name, f"{name}-{index}-{template.label}", index, template.label, row)
                return
            for index, together in enumerate(zip_longest(*map(self._rows, templates))):
                labelled = [(t.label, row) for t, row in zip(templates, together, strict=True) if row is not None]
                yield self._drawn(name, index, labelled)

    def fingerprint(self, name: str) -> str:
        with error_prefix(self.name, name):
            settings = json.dumps([READER_VERSION, name, self.prompts, self.seed, self.split])
            digests = [
                f"{template.label} {source_digest(template.source, config=template.config, split=self.split)}"
                for template in self._templates(name)
            ]
            return hashlib.sha256("\n".join([settings, *digests]).encode()).hexdigest()

    def unread_lines(self) -> list[str]:
        """Return a line that counts files of the folder without rows of a template; none for the hub."""
        folder = Path(self.source)
        if not folder.is_dir():
            return []
        files = unread_files(folder, (path for path in files_in(folder) if format_of(path) in SUFFIXES))
        return [unread_line(folder, files)] if files else []

    def _drawn(self, name: str, index: int, labelled: list[tuple[str, Row]]) -> Example:
        """Return the row of a random template, if possible one that is not skipped."""
        rng = rendering_rng(self.seed, name, str(index))
        drawn = [
            _example(name, f"{name}-{index}", index, label, row) for label, row in rng.sample(labelled, len(labelled))
        ]
        return next((example for example in drawn if not example.skipped), drawn[0])

    def _rows(self, template: "_Template") -> Iterator[Row]:
        return read_rows(template.source, config=template.config, split=self.split)

    def _templates(self, name: str) -> list["_Template"]:
        if name not in self._templates_of:
            close = nearest(name, self._templates_of)
            raise ValueError(f"no task {name!r} among the {len(self._templates_of)} of {self.source}; {close}")
        return self._templates_of[name]

    @cached_property
    def _templates_of(self) -> dict[str, list["_Template"]]:
        """The templates of each dataset, sorted by name."""
        templates: dict[str, list[_Template]] = defaultdict(list)
        longest_first = sorted(self.datasets, key=len, reverse=True)
        unmatched, unused = [], {*self.without} - {*SCORE_EVAL}
        for template in self._all_templates():
            if matched := [pattern for pattern in self.without if name_matches(template.label, pattern)]:
                unused -= {*matched}
                continue
            dataset = next((d for d in longest_first if template.label.startswith(f"{d}_")), None)
            if dataset is None:
                unmatched.append(template.label)
            else:
                label = template.label.removeprefix(f"{dataset}_")
                templates[dataset].append(template._replace(label=label))
        if unmatched:
            raise ValueError(
                f"{self.source}: {counted(len(unmatched), 'template begins', 'templates begin')} with no known "
                f"dataset's name: {some(unmatched)}; "
                f"list their datasets in `datasets`, or the templates in `without`"
            )
        if unused:
            raise ValueError(f"{self.source}: no template is called {some(sorted(unused))}, which `without` names")
        return dict(templates)

    def _all_templates(self) -> list["_Template"]:
        folder = Path(self.source)
        if folder.is_dir():
            files = named_files(folder)
            if not files:
                raise ValueError(
                    f"{folder} holds no file of rows; expected one for each template, e.g. wiki_qa_exercise.jsonl"
                )
            return [_Template(name, str(path), None) for name, path in files.items()]
        if folder.is_absolute():
            raise ValueError(f"no folder {folder}; expected a folder with a file for each template, or a hub name")
        import datasets  # takes seconds to import

        name, _, revision = self.source.partition("@")
        configs = datasets.get_dataset_config_names(name, revision=revision or None)
        return [_Template(config, self.source, config) for config in sorted(configs)]


class _Template(NamedTuple):
    label: str
    source: str
    config: str | None


def _example(task: str, id: str, index: int, label: str, row: Row) -> Example:
    prompt, answer = _texts(row)
    choices = row.texts("answer_choices", default=()) if row.fields.get("answer_choices") is not None else ()
    reason = "no answer" if not answer else "no prompt" if not prompt else ""
    if choices and answer not in choices and not reason:
        reason = "the answer is none of the choices"
    if reason:
        return Example(task, id, index, prompt, (), label, skipped=reason)
    return Example(task, id, index, prompt, (answer,), label, choices, choices.index(answer) if choices else None)


def _texts(row: Row) -> tuple[str, str]:
    for prompt, answer in COLUMNS:
        if prompt in row.fields:
            return row.text(prompt).strip(), row.text(answer).strip().removesuffix(END).strip()
    expected = " or ".join(" and ".join(pair) for pair in COLUMNS)
    raise row.error(f"expected the columns {expected}, got {some(list(row.fields))}")
