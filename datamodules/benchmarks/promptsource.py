"""Benchmark reader of PromptSource (arXiv 2202.01279): crowd-sourced templates over the rows of datasets.

::

    templates/super_glue/rte/templates.yaml    dataset: super_glue, subset: rte, templates: {<id>: !Template {...}, ...}

A task is a subset of a dataset with all its templates. The rows are those of the hub dataset, or of files with the same
columns, which templates read by name. The format is that of bigscience-workshop/promptsource,
promptsource/templates.py. ``jinja_templates.py`` renders a template.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from ..data_files import format_of, read_text, task_name_of
from ..file_digests import file_digest
from ..folder_files import files_below
from ..messages import MissingFiles, existing_folder, expanded, kind, nearest, some
from ..rendering.prompts import rendering_rng
from ..schema import Example, Metric, Task
from ..yaml_files import UniqueKeys, parse_yaml
from .benchmark import Benchmark, Split
from .levels.taxonomy import category_of_name
from .rows.row import Row, error_prefix
from .rows.row_files import SUFFIXES
from .rows.unread_files import unread_files, unread_line
from .templates.jinja_templates import DoesNotApply, MissingColumn, PromptTemplate, RenderedPrompt
from .templates.template_rows import RowSource, files_of_rows, template_rows, template_rows_digest

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

METRICS: Mapping[str, Metric] = {"Accuracy": "accuracy", "Squad": "token_f1", "COQA F1": "token_f1"}
"""Headline metric by PromptSource's metric; for all others it is ROUGE-L."""

COLLECTIONS = frozenset("glue super_glue kilt_tasks tweet_eval".split())
"""Hub datasets whose subsets are separate datasets. Subsets of other hub datasets are parts or sizes of one."""


class PromptSource(Benchmark):
    """Reads datasets from the hub or from files, and renders their rows with PromptSource's templates.

    OPT-IML pools the prompts of all templates and draws as many as the dataset has rows, so that templates do not make
    a task larger (arXiv 2212.12017, section 4.1). This reader renders every row with one template, drawn from those
    that apply to it. No row is trained with one template and tested with another, since instances are split by row.

    Args:
        templates: Folder of the templates, e.g. ``$CROSSTASK_DATA/promptsource/templates``.
        rows: Source of rows for each task; None for the hub dataset of every folder of templates. A task's name is its
            folder below `templates`, with underscores: ``super_glue_rte``. A dataset that was renamed on the hub after
            its templates were written needs a `source`.
        original_task: True uses only templates of the dataset's original task, as in OPT-IML. False also uses others,
            such as generating a question, as in T0. A dataset without a usable template is left out and reported.
        split: Split of the datasets to read: ``train``, ``validation`` or ``test``. Tasks are listed under it.
        prompts: ``one`` renders a row with one random template; ``all`` renders it with every template, as OPT-IML does
            for evaluation.
        without: Names of templates to leave out, by task.
        rows_folder: Instead of `rows`: a folder with the files ``<split>/<task>.jsonl``, as ``crosstask download``
            writes them. Datasets without a file are left out and reported.
        tasks: Instead of `rows`: names of the tasks to read, from the hub or from `rows_folder`; all if empty.
        seed: Seed of the choice of templates, and of random choices within templates.
    """

    name = "promptsource"

    def __init__(
        self,
        templates: str,
        rows: dict[str, RowSource] | None = None,
        original_task: bool = True,
        split: Split = "train",
        prompts: Literal["one", "all"] = "one",
        without: dict[str, list[str]] | None = None,
        rows_folder: str = "",
        tasks: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        if rows is not None and rows_folder:
            raise ValueError("rows and rows_folder both name the rows: set one of them")
        if rows is not None and tasks:
            raise ValueError("rows and tasks both name the tasks: set one of them")
        if prompts not in ("one", "all"):
            raise ValueError(f"prompts must be 'one' or 'all', got {prompts!r}")
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {list(get_args(Split))}, got {split!r}")
        self.folder = expanded(templates)
        self.original_task, self.split, self.prompts, self.seed = original_task, split, prompts, seed
        self.without = dict(without or {})
        self._configured, self.rows_folder, self._named = rows, rows_folder and str(expanded(rows_folder)), tuple(tasks)

    def task_names(self, split: Split) -> list[str]:
        """Return the names of all tasks for the split that is read; PromptSource has no split of tasks."""
        return sorted(self._rows) if split == self.split else []

    def left_out(self) -> Mapping[str, str]:
        """Return the datasets without a template of the original task or a file in `rows_folder`, with the reason."""
        if self._configured is not None:
            return {}
        left_out = {name: "no template of the original task" for name in self._chosen if name not in self.datasets()}
        return left_out | {name: f"no rows in {self.rows_folder}" for name in self.datasets() if name not in self._rows}

    def unread_lines(self) -> list[str]:
        """Return a line that counts data files of `rows_folder` of no dataset with a template, in any split."""
        if not self.rows_folder:
            return []
        folder, datasets = Path(self.rows_folder), self._folders if self._named else self.datasets()
        files = (path for split in get_args(Split) for path in (folder / split).glob("*"))
        known = [path for path in files if format_of(path) in SUFFIXES and task_name_of(path) in datasets]
        unread = unread_files(folder, known)
        return [unread_line(folder, unread)] if unread else []

    def datasets(self) -> Mapping[str, tuple[str, str]]:
        """Return (hub dataset, configuration) of every task with a usable template; the configuration may be empty."""
        files = {name: _read_templates(path) for name, path in self._chosen.items()}
        return {name: (file.dataset, file.subset or "") for name, file in files.items() if self._usable(file)}

    def task(self, name: str) -> Task:
        """Return a task's metadata; its metric is the most frequent one of its templates."""
        with error_prefix(self.name, name):
            file, source = self._file(name), self._source(name)
            templates = self._templates(name, file)
            metrics: list[Metric] = [
                METRICS.get(metric, "rouge_l") for template in templates for metric in template.metrics[:1]
            ]
            # Templates of one dataset may name different metrics; the most frequent one counts.
            metric = Counter(metrics).most_common(1)[0][0] if metrics else "rouge_l"
            return Task(
                benchmark=self.name,
                name=name,
                category=category_of_name(self.name, name),
                instruction_level="instance",
                parent=source.parent,
                sources=(file.subset if file.subset and file.dataset in COLLECTIONS else file.dataset,),
                metric=metric,
                match="squad" if metric == "token_f1" else "text",
            )

    def examples(self, name: str) -> Iterator[Example]:
        """Yield every row, rendered with one template or all; a row to which no template applies is skipped."""
        with error_prefix(self.name, name):
            source = self._source(name)
            file = self._file(name)
            templates = [(t.label, t.compiled()) for t in self._templates(name, file)]
            for index, row in enumerate(template_rows(source, file.dataset, file.subset)):
                for label, rendered in self._renderings(name, index, templates, row):
                    suffix = f"-{label}" if self.prompts == "all" else ""
                    yield _example(name, f"{name}-{index}{suffix}", index, label, rendered)

    def fingerprint(self, name: str) -> str:
        with error_prefix(self.name, name):
            source, file = self._source(name), self._file(name)
            settings = [READER_VERSION, name, asdict(source), self.original_task, self.prompts, self.seed]
            parts = [json.dumps([*settings, self.without.get(name)]), file_digest(file.path)]
            parts.append(template_rows_digest(source, file.dataset, file.subset))
            return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def _renderings(
        self,
        task: str,
        index: int,
        templates: Sequence[tuple[str, PromptTemplate]],
        row: Row,
    ) -> Iterator[tuple[str, RenderedPrompt | str]]:
        """Yield a row's prompts with the names of their templates; a missing prompt is replaced by the reason."""
        rng = rendering_rng(self.seed, task, str(index))
        one = self.prompts == "one"
        reason = ""
        for label, template in rng.sample(templates, len(templates)) if one else templates:
            try:
                rendered = template.render(row.fields, rng)
            except DoesNotApply as error:
                reason = reason or str(error)
                if not one:
                    yield label, str(error)
                continue
            except MissingColumn as error:
                raise row.error(f"{error}; list the column in `columns`, or the template in `without`") from error
            yield label, rendered
            if one:
                return
        if one:
            yield "", "no template applies" if len(templates) > 1 else reason

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Every file of templates by its task's name, e.g. ``super_glue_wsc.fixed``."""
        root = existing_folder(self.folder, "the templates")
        paths: dict[str, Path] = {}
        for path in (file for file in files_below(root) if file.name == "templates.yaml"):
            paths[re.sub(r"[^\w.-]+", "_", "_".join(path.parent.relative_to(root).parts))] = path
        if not paths:
            raise ValueError(f"no templates.yaml below {root}; name the folder that holds a folder for each dataset")
        return paths

    @cached_property
    def _chosen(self) -> dict[str, Path]:
        """The files of templates that `tasks` names, or all."""
        if unknown := [name for name in self._named if name not in self._folders]:
            raise ValueError(f"no templates {unknown[0]!r} below {self.folder}; {nearest(unknown[0], self._folders)}")
        return {name: self._folders[name] for name in self._named or self._folders}

    @cached_property
    def _rows(self) -> dict[str, RowSource]:
        """Source of rows by task; without `rows`, those of every folder that has a usable template."""
        if self._configured is not None:
            return dict(self._configured)
        if not self.rows_folder:
            return {name: RowSource(split=self.split) for name in self.datasets()}
        files = files_of_rows(self.rows_folder, self.split)
        return {name: RowSource(source=files[name], split=self.split) for name in self.datasets() if name in files}

    def _usable(self, file: "_TemplateFile") -> list["_Template"]:
        return [template for template in file.templates if template.original_task or not self.original_task]

    def _source(self, name: str) -> RowSource:
        if name not in self._rows:
            if self.rows_folder and name in self.datasets():
                raise MissingFiles(self.left_out()[name])
            raise ValueError(f"no such task among {len(self._rows)}; {nearest(name, self._rows)}")
        return self._rows[name]

    def _file(self, name: str) -> "_TemplateFile":
        folder = self._source(name).templates or name
        if folder not in self._folders:
            raise ValueError(f"no templates {folder!r} below {self.folder}; {nearest(folder, self._folders)}")
        return _read_templates(self._folders[folder])

    def _templates(self, name: str, file: "_TemplateFile") -> list["_Template"]:
        excluded = self.without.get(name, [])
        if unknown := [label for label in excluded if label not in {t.label for t in file.templates}]:
            labels = [t.label for t in file.templates]
            raise ValueError(f"`without` names {unknown[0]!r}, and the templates are {some(labels)}")
        used = [template for template in self._usable(file) if template.label not in excluded]
        if not used:
            raise ValueError(
                f"{file.path}: none of {len(file.templates)} templates is left (original_task is {self.original_task}, "
                f"`without` leaves out {len(excluded)}); set original_task to false, or take the task out of `rows`"
            )
        return used


class _Template(NamedTuple):
    label: str
    jinja: str
    answer_choices: str | None
    original_task: bool
    metrics: tuple[str, ...]

    def compiled(self) -> PromptTemplate:
        return PromptTemplate(self.label, self.jinja, self.answer_choices)


class _TemplateFile(NamedTuple):
    path: Path
    dataset: str
    subset: str | None
    templates: tuple[_Template, ...]


def _read_templates(path: Path) -> "_TemplateFile":
    status = path.stat()
    return _template_file(path, status.st_mtime_ns, status.st_size)


class _Loader(UniqueKeys):
    """YAML loader that reads PromptSource's two tags as plain mappings and runs no code."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("!Template", _mapping)
_Loader.add_constructor("!TemplateMetadata", _mapping)


@lru_cache(maxsize=1024)
def _template_file(path: Path, modified: int, size: int) -> _TemplateFile:
    """Return the templates of a file; `modified` and `size` are part of the cache's key."""
    content = parse_yaml(read_text(path), str(path), _Loader)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dataset with its templates, got {kind(content)}")
    row = Row(content, str(path))
    templates = row.value("templates")
    if not isinstance(templates, dict):
        raise row.error(f"'templates' should hold templates by their ids, got {kind(templates)}")
    parsed = [_template(key, value, f"{path}, template {key}") for key, value in templates.items()]
    counts = Counter(template.label for template in parsed)
    named = (
        template._replace(label=f"{template.label}#{key[:8]}") if counts[template.label] > 1 else template
        for key, template in zip(map(str, templates), parsed, strict=True)
    )
    subset = row.text("subset", default="") or None
    return _TemplateFile(path, row.text("dataset"), subset, tuple(named))


def _template(key: str, content: object, place: str) -> _Template:
    if not isinstance(content, dict):
        raise ValueError(f"{place}: expected a !Template, got {kind(content)}")
    row = Row(content, place)
    metadata = row.value("metadata")
    if not isinstance(metadata, dict):
        raise row.error(f"'metadata' should be a !TemplateMetadata, got {kind(metadata)}")
    choices = row.value("answer_choices")
    if choices is not None:
        choices = row.text("answer_choices")
    return _Template(
        label=row.text("name"),
        jinja=row.text("jinja"),
        answer_choices=choices,
        original_task=bool(metadata.get("original_task")),
        metrics=tuple(metadata.get("metrics") or ()),
    )


def _example(task: str, id: str, index: int, label: str, rendered: RenderedPrompt | str) -> Example:
    if isinstance(rendered, str):
        return Example(task, id, index, "", (), template=label or None, skipped=rendered)
    choices = rendered.choices
    # Some templates use answer_choices for other words of the prompt; they are options only if the answer is one.
    answer = choices.index(rendered.target) if rendered.target in choices else None
    options = choices if answer is not None else ()
    if not all(options):
        return Example(task, id, index, "", (), label, skipped="an answer choice is empty")
    return Example(task, id, index, rendered.source, (rendered.target,), label, options, answer)
