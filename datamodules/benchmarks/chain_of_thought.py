"""Benchmark reader of FLAN's chain-of-thought tables: one file per dataset, with question, answer and explanation.

::

    folder/gsm8k_train.tsv    question <tab> answer <tab> explanation    without a header; a line end is written \\n

They are flan/v2/cot_data of google-research/FLAN. The target is the explanation, then the answer (OPT-IML, arXiv
2212.12017, appendix C). ``reasoning.py`` reads the same datasets from their original files.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..file_digests import file_digest
from ..messages import existing_folder, expanded, nearest
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .levels.taxonomy import category_of_name
from .rationales import INSTRUCTION, flan_cot_example, flan_cot_rows
from .rows.row import error_prefix
from .rows.unread_files import unread_files, unread_line

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

SUFFIX = "_train.tsv"


class ChainOfThought(Benchmark):
    """Reads FLAN's chain-of-thought tables of questions, answers and explanations; every table is a training task.

    The target is the explanation, then the answer. ``Reasoning`` reads the same datasets from their original files, and
    these tables only if those are missing.

    Args:
        folder: Folder of the tables, e.g. ``$CROSSTASK_DATA/flan_cot``.
    """

    name = "chain_of_thought"

    def __init__(self, folder: str) -> None:
        self.folder = expanded(folder)

    def task_names(self, split: Split) -> list[str]:
        """Return the names of all tables for the split "train"; other splits are empty."""
        return sorted(self._files()) if split == "train" else []

    def task(self, name: str) -> Task:
        """Return the metadata of a table's task."""
        self._path(name)
        return Task(
            benchmark=self.name,
            name=name,
            category=category_of_name(self.name, name),
            definition=INSTRUCTION,
            sources=(name,),
            metric="exact_match",
            match="gsm8k" if name == "gsm8k" else "rationale",
        )

    def examples(self, name: str) -> Iterator[Example]:
        """Yield an example for every line of the table."""
        with error_prefix(self.name, name):
            for index, row in enumerate(flan_cot_rows(self._path(name))):
                for rendered in flan_cot_example(row):
                    yield Example(
                        task=name,
                        id=f"{name}-{index}",
                        index=index,
                        input=rendered.input,
                        targets=rendered.targets,
                        options=rendered.options,
                        answer=rendered.answer,
                        skipped=rendered.skipped,
                    )

    def fingerprint(self, name: str) -> str:
        content = file_digest(self._path(name))
        return hashlib.sha256(f"{self.name} {READER_VERSION} {name} {content}".encode()).hexdigest()

    def unread_lines(self) -> list[str]:
        """Return a line that counts the files in the folder that are not tables."""
        files = unread_files(self.folder, self._files().values())
        return [unread_line(self.folder, files)] if files else []

    def _files(self) -> dict[str, Path]:
        folder = existing_folder(self.folder, "the tables")
        return {path.name.removesuffix(SUFFIX): path for path in folder.glob(f"*{SUFFIX}")}

    def _path(self, name: str) -> Path:
        files = self._files()
        if name not in files:
            raise ValueError(f"no {name}{SUFFIX} in {self.folder} among {len(files)} tables; {nearest(name, files)}")
        return files[name]
