"""PromptSource: templates that strangers wrote for datasets, and the datasets' rows.

::

    templates/super_glue/rte/templates.yaml    dataset: super_glue, subset: rte, templates: {<id>: !Template {...}, ...}

A task is a dataset's subset with all its templates. The rows are the dataset's of the hub, or files that hold the same;
templates read them by column name. The format is that of bigscience-workshop/promptsource, promptsource/templates.py.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from ..messages import existing_folder, expanded, kind, nearest, some
from ..rendering.prompts import rendering_rng
from ..schema import Example, Metric, Task
from .benchmark import Benchmark, Split
from .row_files import Row, file_digest, naming
from .row_source import RowSource, row_source_digest, source_rows
from .taxonomy import shipped_taxonomy
from .templates import DoesNotApply, MissingColumn, PromptTemplate, Rendered

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

METRICS: Mapping[str, Metric] = {"Accuracy": "accuracy", "Squad": "token_f1", "COQA F1": "token_f1"}
"""Our metric by PromptSource's; every other one is ROUGE-L."""

COLLECTIONS = frozenset("glue super_glue kilt_tasks tweet_eval".split())
"""Datasets of the hub whose subsets are datasets of their own; other subsets are parts or sizes of one dataset."""


class PromptSource(Benchmark):
    """Reads PromptSource's templates over rows of datasets.

    OPT-IML pools the prompts of all templates and draws as many as the dataset has rows, so that a task with many
    templates is no larger (section 4.1). Here every row gets one template, drawn at random among those that apply to
    it; ``prompts="all"`` gives every row with every template, as the paper tests. Instances are dealt by row, so that
    no row is trained in one template and tested in another.

    Args:
        templates: Folder of the templates, e.g. ``$CROSSTASK_DATA/promptsource/templates``.
        rows: The tasks, and where the rows of each lie; by default every dataset with templates, from the hub. A task
            is called as its folder below `templates`, with underscores: ``super_glue_rte``. Datasets that have moved on
            the hub since their templates were written need a `source`.
        original_task: Leave out templates that change the task, e.g. to ask for a question.
        prompts: Whether a row gets one template or all.
        without: Names of templates to leave out, by task.
        seed: Draws templates, and makes the templates' own random choices.
    """

    name = "promptsource"

    def __init__(
        self,
        templates: str,
        rows: dict[str, RowSource] | None = None,
        original_task: bool = True,
        prompts: Literal["one", "all"] = "one",
        without: dict[str, list[str]] | None = None,
        seed: int = 0,
    ) -> None:
        if prompts not in ("one", "all"):
            raise ValueError(f"prompts must be 'one' or 'all', got {prompts!r}")
        self.folder = Path(expanded(templates))
        self.original_task, self.prompts, self.seed = original_task, prompts, seed
        self.without = dict(without or {})
        self._given = rows

    def task_names(self, split: Split) -> list[str]:
        """All tasks train: PromptSource has no split of tasks."""
        return sorted(self._rows) if split == "train" else []

    def task(self, name: str) -> Task:
        with naming(self.name, name):
            file, source = self._file(name), self._source(name)
            used = self._used(name, file)
            stated: list[Metric] = [
                METRICS.get(metric, "rouge_l") for template in used for metric in template.metrics[:1]
            ]
            return Task(
                benchmark=self.name,
                name=name,
                category=shipped_taxonomy().category(self.name, name),
                instruction_level="instance",
                parent=source.parent,
                sources=(file.subset if file.subset and file.dataset in COLLECTIONS else file.dataset,),
                # Templates of one dataset may differ; the task is scored as most of them ask.
                metric=Counter(stated).most_common(1)[0][0] if stated else "rouge_l",
                input_languages=("English",),
                output_languages=("English",),
            )

    def examples(self, name: str) -> Iterator[Example]:
        """Every row with one template or all; a row that no template applies to is refused."""
        with naming(self.name, name):
            source = self._source(name)
            file = self._file(name)
            templates = [(t.label, t.compiled()) for t in self._used(name, file)]
            for index, row in enumerate(source_rows(source, file.dataset, file.subset)):
                for label, rendered in self._renderings(name, index, templates, row):
                    suffix = f"-{label}" if self.prompts == "all" else ""
                    yield _example(name, f"{name}-{index}{suffix}", index, label, rendered)

    def fingerprint(self, name: str) -> str:
        with naming(self.name, name):
            source, file = self._source(name), self._file(name)
            settings = [READER_VERSION, name, asdict(source), self.original_task, self.prompts, self.seed]
            parts = [json.dumps([*settings, self.without.get(name)]), file_digest(file.path)]
            parts.append(row_source_digest(source, file.dataset, file.subset))
            return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def _renderings(
        self,
        task: str,
        index: int,
        templates: Sequence[tuple[str, PromptTemplate]],
        row: Row,
    ) -> Iterator[tuple[str, Rendered | str]]:
        """A row's prompts with the names of their templates; the reason in place of a prompt that there is not."""
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
                raise row.error(
                    f"{error}; name the column's place in `columns`, or the template in `without`"
                ) from error
            yield label, rendered
            if one:
                return
        if one:
            yield "", "no template applies" if len(templates) > 1 else reason

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Every folder of templates by its task's name, e.g. ``super_glue_wsc.fixed``."""
        root = existing_folder(self.folder, "the templates")
        found: dict[str, Path] = {}
        for path in sorted(root.rglob("templates.yaml")):
            found[re.sub(r"[^\w.-]+", "_", "_".join(path.parent.relative_to(root).parts))] = path
        if not found:
            raise ValueError(f"no templates.yaml below {root}; name the folder that holds a folder for each dataset")
        return found

    @cached_property
    def _rows(self) -> dict[str, RowSource]:
        return dict(self._given) if self._given is not None else {name: RowSource() for name in self._folders}

    def _source(self, name: str) -> RowSource:
        if name not in self._rows:
            raise ValueError(f"no such task among {len(self._rows)}; {nearest(name, self._rows)}")
        return self._rows[name]

    def _file(self, name: str) -> "_TemplateFile":
        folder = self._source(name).templates or name
        if folder not in self._folders:
            raise ValueError(f"no templates {folder!r} below {self.folder}; {nearest(folder, self._folders)}")
        path = self._folders[folder]
        status = path.stat()
        return _template_file(path, status.st_mtime_ns, status.st_size)

    def _used(self, name: str, file: "_TemplateFile") -> list["_Template"]:
        left_out = self.without.get(name, [])
        if unknown := [label for label in left_out if label not in {t.label for t in file.templates}]:
            labels = [t.label for t in file.templates]
            raise ValueError(f"`without` names {unknown[0]!r}, and the templates are {some(labels)}")
        used = [t for t in file.templates if t.label not in left_out and (t.original_task or not self.original_task)]
        if not used:
            total = len(file.templates)
            raise ValueError(f"{file.path}: none of {total} templates is left; original_task is {self.original_task}")
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


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads PromptSource's two tags as plain mappings, and runs nothing."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("!Template", _mapping)
_Loader.add_constructor("!TemplateMetadata", _mapping)


@lru_cache(maxsize=1024)
def _template_file(path: Path, modified: int, size: int) -> _TemplateFile:
    """The file's templates; a file that has not changed is parsed once."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dataset with its templates, got {kind(content)}")
    row = Row(content, str(path))
    templates = row.value("templates")
    if not isinstance(templates, dict):
        raise row.error(f"'templates' should hold templates by their ids, got {kind(templates)}")
    found = [_template(key, value, f"{path}, template {key}") for key, value in templates.items()]
    counts = Counter(template.label for template in found)
    named = (
        template._replace(label=f"{template.label}#{key[:8]}") if counts[template.label] > 1 else template
        for key, template in zip(map(str, templates), found, strict=True)
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


def _example(task: str, id: str, index: int, label: str, rendered: Rendered | str) -> Example:
    if isinstance(rendered, str):
        return Example(task, id, index, "", (), template=label or None, skipped=rendered)
    choices = rendered.choices
    # Choices may only be words of the prompt: they are the answer's where the answer is one of them.
    answer = choices.index(rendered.target) if rendered.target in choices else None
    options = choices if answer is not None else ()
    if not all(options):
        return Example(task, id, index, "", (), label, skipped="an answer choice is empty")
    return Example(task, id, index, rendered.source, (rendered.target,), label, options, answer)
