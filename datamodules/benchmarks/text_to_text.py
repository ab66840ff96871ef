"""CrossFit, ExMix and T5: rows of input and output text, and one sentence of instruction for each task.

::

    folder/blimp-ellipsis_n_bar_1/blimp-ellipsis_n_bar_1_16_13_train.tsv   input, output [, output ...], no header
    folder/cogs/train.jsonl, folder/cogs/train.tsv                         {"inputs": ..., "targets": ...}

OPT-IML kept those tasks of the three collections that no other one holds, and wrote an instruction for each (section
2.2). Ours are in ``data/text_to_text.json``, which also names the tasks that are left to other collections.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..messages import expanded, kind, nearest
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Rendered
from .row_files import Row, file_rows, json_document, text_lines

SHIPPED = Path(__file__).parent / "data/text_to_text.json"

NO_OUTPUT = "a line without an output"
REPEATED = "a repetition of an earlier line"

ENDS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("dev", "validation"), "test": ("test",)}
"""How files name the splits."""


class TextToText(Catalogue):
    """Reads tasks of input and output text.

    Args:
        folder: Folder that holds a folder for each task.
        sources: Where to read a task by its name instead; see ``Catalogue``.
        split: Which of the tasks' own splits to read.
        instructions: JSON file with tasks of your own, or other words for ours:
            ``{"my_task": {"instruction": "Translate into Latin.", "category": "Translation"}}``.
    """

    def __init__(
        self,
        folder: str = "",
        sources: dict[str, str] | None = None,
        split: Split = "train",
        instructions: str = "",
    ) -> None:
        super().__init__(folder, sources, split)
        self.instructions = expanded(instructions)

    @property
    @abstractmethod
    def collection(self) -> str:
        """The section of the shipped file of instructions."""

    def datasets(self) -> Mapping[str, Dataset]:
        return self._datasets

    def task_names(self, split: Split) -> list[str]:
        """The tasks at hand that have an instruction; a folder whose task is unknown is refused."""
        names = super().task_names(split)
        known = {*self.datasets(), *self._section["elsewhere"]}
        folders = [path.name for path in sorted(Path(self.folder).iterdir()) if path.is_dir()] if self.folder else []
        if unknown := [name for name in folders if name not in known]:
            raise ValueError(
                f"{self.name}: no instruction for {unknown[0]!r} in {self.folder}; {nearest(unknown[0], known)}; "
                "write one in a JSON file and name it as `instructions`, or move the folder away"
            )
        return names

    @cached_property
    def _section(self) -> Mapping[str, Any]:
        return json.loads(SHIPPED.read_text(encoding="utf-8"))[self.collection]

    @cached_property
    def _datasets(self) -> dict[str, Dataset]:
        entries = dict(self._section["tasks"])
        if self.instructions:
            entries |= _own_instructions(Path(self.instructions))
        return {name: _dataset(name, entry["instruction"], entry["category"]) for name, entry in entries.items()}


class CrossFit(TextToText):
    """Reads CrossFit (INK-USC/CrossFit): the TSV files that its programs write, all samples of a task together."""

    name = "crossfit"
    collection: ClassVar[str] = "crossfit"


class ExMix(TextToText):
    """Reads the tasks of ExMix (arXiv 2111.10952) that OPT-IML took from it."""

    name = "exmix"
    collection: ClassVar[str] = "exmix"


class T5(TextToText):
    """Reads tasks of T5 (arXiv 1910.10683) as its program renders them, with prefixes such as "summarize: "."""

    name = "t5"
    collection: ClassVar[str] = "t5"


def _own_instructions(path: Path) -> Mapping[str, Mapping[str, str]]:
    entries = json_document(path)
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
            Layout(columns, _renderer(instruction, *columns))
            for columns in (("inputs", "targets"), ("input", "output"), ("source", "target"))
        ),
        files={split: _files(name, ends) for split, ends in ENDS.items()},
        definition=instruction,
    )


def _renderer(instruction: str, given: str, wanted: str) -> Callable[[Row], Iterable[Rendered]]:
    def render(row: Row) -> Iterable[Rendered]:
        targets = tuple(dict.fromkeys(text.strip() for text in row.texts(wanted) if text.strip()))
        skipped = str(row.fields.get("skipped", "")) or ("" if targets else NO_OUTPUT)
        yield Rendered(f"{instruction}\n{row.text(given).strip()}", targets, skipped=skipped)

    return render


def _files(name: str, ends: tuple[str, ...]) -> tuple[Files, ...]:
    listed = [Files((f"{name}/{end}{suffix}",), file_rows) for end in ends for suffix in (".jsonl", ".json")]
    tables = [Files((f"{name}/{end}.tsv",), pair_rows) for end in ends]
    samples = [Files((f"{name}/*_{end}.tsv",), pair_rows) for end in ends]  # <task>_<k>_<seed>_train.tsv
    return (*listed, *tables, *samples)


def pair_rows(*paths: Path) -> Iterator[Row]:
    """Lines of an input, a tab, and one or more outputs separated by tabs.

    The programs that write these files do not escape line ends, so that a text with one is torn into lines: those
    without an output are refused, as are lines that an earlier sample of the task holds already.
    """
    seen: set[bytes] = set()
    for path in paths:
        for number, line in text_lines(path):
            if not line.strip():
                continue
            digest = hashlib.blake2b(line.encode(), digest_size=16).digest()
            given, *outputs = line.split("\t")
            skipped = REPEATED if digest in seen else "" if any(text.strip() for text in outputs) else NO_OUTPUT
            seen.add(digest)
            yield Row({"input": given, "output": outputs, "skipped": skipped}, f"{path}, line {number}")
