"""Benchmark readers of CrossFit, ExMix and T5: rows of input and output text, with one instruction for each task.

::

    folder/blimp-ellipsis_n_bar_1/blimp-ellipsis_n_bar_1_16_13_train.tsv   input, output [, output ...], no header
    folder/cogs/train.jsonl, folder/cogs/train.tsv                         {"inputs": ..., "targets": ...}

OPT-IML kept the tasks of the three collections that are in no other collection, and wrote an instruction for each
(arXiv 2212.12017, section 2.2). Its instructions are not published. ``data/text_to_text.json`` has the instructions of
this package, and the names of the tasks that other collections hold.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from ..data_files import read_json, text_lines
from ..messages import existing_folder, expanded, kind, nearest
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, RenderedExample
from .rows.row import Row
from .rows.row_files import file_rows

SHIPPED = Path(__file__).parent / "data/text_to_text.json"

NO_OUTPUT = "a line without an output"
REPEATED = "a repetition of an earlier line"

ENDS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("dev", "validation"), "test": ("test",)}
"""Names of each split in file names."""


class TextToText(Catalogue):
    """Base class of readers of CrossFit, ExMix and T5, whose tasks are pairs of texts behind an instruction.

    The authors publish no instructions: one for each task is installed with this package.

    Args:
        folder: Folder with a folder for each task.
        sources: File or hub name of single tasks that are outside the folder, by task.
        split: Split of the tasks to read: ``train``, ``validation`` or ``test``.
        instructions: JSON file with tasks of your own, or with instructions that override the installed ones:
            ``{"my_task": {"instruction": "Translate into Latin.", "category": "Translation"}}``. Empty for the
            installed ones alone.
    """

    def __init__(
        self,
        folder: str = "",
        sources: dict[str, str] | None = None,
        split: Split = "train",
        instructions: str = "",
    ) -> None:
        super().__init__(folder, sources, split)
        self.instructions = instructions and str(expanded(instructions))

    @property
    @abstractmethod
    def collection(self) -> str:
        """Section of the installed file of instructions: "crossfit", "exmix" or "t5"."""

    def datasets(self) -> Mapping[str, Dataset]:
        """Return the tasks that have an instruction, including those whose files are missing."""
        return self._datasets

    def task_names(self, split: Split) -> list[str]:
        """Return the names of the tasks whose files exist.

        Raises:
            ValueError: The folder of a task exists, and the task has no instruction.
        """
        names = super().task_names(split)
        described = {*self.datasets(), *self._section["elsewhere"]}
        root = existing_folder(Path(self.folder), f"the tasks of {self.name}") if self.folder else None
        folders = [path.name for path in sorted(root.iterdir()) if path.is_dir()] if root is not None else []
        if unknown := [name for name in folders if name not in described]:
            raise ValueError(
                f"{self.name}: no instruction for {unknown[0]!r} in {self.folder}; {nearest(unknown[0], described)}; "
                "write one in a JSON file and name it as `instructions`, or move the folder away"
            )
        return names

    @cached_property
    def _section(self) -> Mapping[str, Any]:
        return read_json(SHIPPED)[self.collection]

    @cached_property
    def _datasets(self) -> dict[str, Dataset]:
        entries = dict(self._section["tasks"])
        if self.instructions:
            entries |= _own_instructions(Path(self.instructions))
        return {name: _dataset(name, entry["instruction"], entry["category"]) for name, entry in entries.items()}


class CrossFit(TextToText):
    """Reads the TSV files of CrossFit (arXiv 2104.08835); all few-shot samples of a task are read together."""

    name = "crossfit"
    collection: ClassVar[str] = "crossfit"


class ExMix(TextToText):
    """Reads the tasks of ExMix (arXiv 2111.10952) that OPT-IML uses, from files of input and target texts."""

    name = "exmix"
    collection: ClassVar[str] = "exmix"


class T5(TextToText):
    """Reads T5's tasks (arXiv 1910.10683) from files of texts, whose inputs have prefixes like "summarize: "."""

    name = "t5"
    collection: ClassVar[str] = "t5"


def _own_instructions(path: Path) -> Mapping[str, Mapping[str, str]]:
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected an object of tasks, got {kind(entries)}")
    for name, entry in entries.items():
        row = Row(entry if isinstance(entry, dict) else {}, f"{path}, task {name}")
        if not row.text("instruction").strip() or not row.text("category").strip():
            raise row.error("'instruction' and 'category' should be text that is not empty")
    return entries


def _dataset(name: str, instruction: str, category: str) -> Dataset:
    return Dataset(
        name=name,
        category=category,
        layouts=tuple(
            Layout(columns, partial(_rendered, instruction, *columns))
            for columns in (("inputs", "targets"), ("input", "output"), ("source", "target"))
        ),
        files={split: _files(name, ends) for split, ends in ENDS.items()},
        definition=instruction,
    )


def _rendered(instruction: str, input_column: str, output_column: str, row: Row) -> Iterable[RenderedExample]:
    targets = tuple(dict.fromkeys(text.strip() for text in row.texts(output_column) if text.strip()))
    skipped = str(row.fields.get("skipped", "")) or ("" if targets else NO_OUTPUT)
    yield RenderedExample(f"{instruction}\n{row.text(input_column).strip()}", targets, skipped=skipped)


def _files(name: str, ends: tuple[str, ...]) -> tuple[Files, ...]:
    jsons = [Files((f"{name}/{end}{suffix}",), file_rows) for end in ends for suffix in (".jsonl", ".json")]
    tables = [Files((f"{name}/{end}.tsv",), pair_rows) for end in ends]
    samples = [Files((f"{name}/*_{end}.tsv",), pair_rows) for end in ends]  # <task>_<k>_<seed>_train.tsv
    return (*jsons, *tables, *samples)


def pair_rows(*paths: Path) -> Iterator[Row]:
    """Yield a row for each line of CrossFit's TSV files, which have an input and one or more outputs, split by tabs.

    The programs that write these files do not escape line ends, so a text with a line end is split into several lines.
    Lines without an output are skipped, and so are repetitions of a line in another sample of the task.
    """
    seen: set[bytes] = set()
    for path in paths:
        for number, line in text_lines(path):
            if not line.strip():
                continue
            digest = hashlib.blake2b(line.encode(), digest_size=16).digest()
            text, *outputs = line.split("\t")
            skipped = REPEATED if digest in seen else "" if any(output.strip() for output in outputs) else NO_OUTPUT
            seen.add(digest)
            yield Row({"input": text, "output": outputs, "skipped": skipped}, f"{path}, line {number}")
