"""P3: the training data of T0, datasets rendered by PromptSource's templates, one file or configuration a template.

::

    folder/wiki_qa_Is_This_True_.jsonl      {"prompt": "Question: how are ...", "completion": "No<|endoftext|>"}
    bigscience/P3, wiki_qa_Is_This_True_    {"inputs_pretokenized": "Question ...", "targets_pretokenized": "No", ...}

A task is a dataset; its templates are the files whose names begin with the dataset's.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

from ..messages import expanded, nearest, some
from ..rendering.prompts import rendering_rng
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .row_files import SUFFIXES, Row, naming, rows, source_digest
from .taxonomy import shipped_taxonomy

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

DATASETS = Path(__file__).parent / "data" / "p3_datasets.txt"
"""Names of datasets as files of P3 begin with them: PromptSource's datasets and subsets, one a line."""

COLUMNS = (("prompt", "completion"), ("inputs_pretokenized", "targets_pretokenized"), ("inputs", "targets"))
"""Prompt and answer, as copies of P3 call them; the first pair that a row has is read."""

END = "<|endoftext|>"  # ends the answers of copies that were made for GPT-3


class P3(Benchmark):
    """Reads rows that PromptSource's templates have rendered.

    The files of a dataset's templates are its rows once for each template. As for ``PromptSource``, a task is as large
    as its dataset: at every place one of the templates is drawn; ``prompts="all"`` gives every row of every file.
    Nothing in the files says which rows are of one example, and templates that leave rows out are out of step with the
    others: a task that is to train and be tested on instances held out is better read by ``PromptSource``.

    Args:
        source: Folder with a file for each template, or a dataset of the hub with a configuration for each:
            ``bigscience/P3``, ``"bigscience/P3@revision"``.
        prompts: Whether a place gets one template or all.
        without: Patterns of templates to leave out, ``*`` for any text; by default those that P3 has for ranking.
        datasets: Names that templates' names begin with; by default those of PromptSource. Of several, the longest.
        split: Split of a dataset of the hub.
        seed: Draws templates.
    """

    name = "p3"

    def __init__(
        self,
        source: str,
        prompts: Literal["one", "all"] = "one",
        without: Sequence[str] = ("*_score_eval",),
        datasets: list[str] | None = None,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        if prompts not in ("one", "all"):
            raise ValueError(f"prompts must be 'one' or 'all', got {prompts!r}")
        self.source = expanded(source)
        self.prompts, self.without, self.split, self.seed = prompts, tuple(without), split, seed
        self.datasets = tuple(datasets) if datasets is not None else tuple(DATASETS.read_text().split())

    def task_names(self, split: Split) -> list[str]:
        """All tasks train: P3 has no split of tasks."""
        return sorted(self._templates) if split == "train" else []

    def task(self, name: str) -> Task:
        self._of(name)
        return Task(
            benchmark=self.name,
            name=name,
            category=shipped_taxonomy().category(self.name, name),
            instruction_level="instance",
            sources=(name,),
            input_languages=("English",),
            output_languages=("English",),
        )

    def examples(self, name: str) -> Iterator[Example]:
        """At every place the row of one template, or those of all, template after template."""
        with naming(self.name, name):
            templates = self._of(name)
            if self.prompts == "all":
                for template in templates:
                    for index, row in enumerate(self._rows(template)):
                        yield _example(name, f"{name}-{index}-{template.label}", index, template.label, row)
                return
            for index, together in enumerate(zip_longest(*map(self._rows, templates))):
                labelled = [(t.label, row) for t, row in zip(templates, together, strict=True) if row is not None]
                yield self._drawn(name, index, labelled)

    def fingerprint(self, name: str) -> str:
        with naming(self.name, name):
            settings = json.dumps([READER_VERSION, name, self.prompts, self.seed, self.split])
            digests = [
                f"{template.label} {source_digest(template.source, config=template.config, split=self.split)}"
                for template in self._of(name)
            ]
            return hashlib.sha256("\n".join([settings, *digests]).encode()).hexdigest()

    def _drawn(self, name: str, index: int, labelled: list[tuple[str, Row]]) -> Example:
        """The row of a random template; one without an answer only if there is no other."""
        rng = rendering_rng(self.seed, name, str(index))
        drawn = [
            _example(name, f"{name}-{index}", index, label, row) for label, row in rng.sample(labelled, len(labelled))
        ]
        return next((example for example in drawn if not example.skipped), drawn[0])

    def _rows(self, template: "_Template") -> Iterator[Row]:
        return rows(template.source, config=template.config, split=self.split)

    def _of(self, name: str) -> list["_Template"]:
        if name not in self._templates:
            raise ValueError(
                f"no task {name!r} among the {len(self._templates)} of {self.source}; {nearest(name, self._templates)}"
            )
        return self._templates[name]

    @cached_property
    def _templates(self) -> dict[str, list["_Template"]]:
        """The templates of each dataset, in the order of their names."""
        found: dict[str, list[_Template]] = defaultdict(list)
        longest_first = sorted(self.datasets, key=len, reverse=True)
        strangers = []
        for template in self._listed():
            if any(fnmatchcase(template.label, pattern) for pattern in self.without):
                continue
            dataset = next((d for d in longest_first if template.label.startswith(f"{d}_")), None)
            if dataset is None:
                strangers.append(template.label)
            else:
                label = template.label.removeprefix(f"{dataset}_")
                found[dataset].append(template._replace(label=label))
        if strangers:
            raise ValueError(
                f"{self.source}: {len(strangers)} templates begin with no known dataset's name: {some(strangers)}; "
                f"list their datasets in `datasets`, or the templates in `without`"
            )
        return dict(found)

    def _listed(self) -> list["_Template"]:
        folder = Path(self.source)
        if folder.is_dir():
            files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
            if not files:
                raise ValueError(
                    f"{folder} holds no file of rows; expected one a template, e.g. wiki_qa_exercise.jsonl"
                )
            return [_Template(path.stem, str(path), None) for path in files]
        if folder.is_absolute():
            raise ValueError(f"no folder {folder}; expected a file a template in it, or a name on the hub")
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
