"""FLAN's chain-of-thought tables: a file a dataset, a line a question with its answer and how to find it.

::

    folder/gsm8k_train.tsv    question <tab> answer <tab> explanation    without a header; a line end is written \\n

They are flan/v2/cot_data of google-research/FLAN. The target is the explanation, then the answer (OPT-IML, appendix C).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..messages import existing_folder, expanded, nearest
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .reasoning import INSTRUCTION
from .reasoning_rows import solved_text
from .row_files import file_digest, naming, table_rows
from .taxonomy import shipped_taxonomy

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

SUFFIX = "_train.tsv"
COLUMNS = ("question", "answer", "explanation")


class ChainOfThought(Benchmark):
    """Reads FLAN's chain-of-thought tables.

    ``Reasoning`` reads the same datasets as their authors publish them, and falls back on these tables. This reader
    takes the tables alone, all that are there.

    Args:
        folder: Folder of the tables, e.g. ``$CROSSTASK_DATA/flan_cot``.
    """

    name = "chain_of_thought"

    def __init__(self, folder: str) -> None:
        self.folder = Path(expanded(folder))

    def task_names(self, split: Split) -> list[str]:
        """Every table is for training."""
        return sorted(self._files()) if split == "train" else []

    def task(self, name: str) -> Task:
        self._path(name)
        return Task(
            benchmark=self.name,
            name=name,
            category=shipped_taxonomy().category(self.name, name),
            definition=INSTRUCTION,
            sources=(name,),
            input_languages=("English",),
            output_languages=("English",),
        )

    def examples(self, name: str) -> Iterator[Example]:
        """Every line of the table."""
        with naming(self.name, name):
            for index, row in enumerate(table_rows(self._path(name), COLUMNS)):
                for solved in solved_text(row):
                    yield Example(
                        task=name,
                        id=f"{name}-{index}",
                        index=index,
                        input=solved.input,
                        targets=solved.targets,
                        options=solved.options,
                        answer=solved.answer,
                        skipped=solved.skipped,
                    )

    def fingerprint(self, name: str) -> str:
        content = file_digest(self._path(name))
        return hashlib.sha256(f"{self.name} {READER_VERSION} {name} {content}".encode()).hexdigest()

    def _files(self) -> dict[str, Path]:
        folder = existing_folder(self.folder, "the tables")
        return {path.name.removesuffix(SUFFIX): path for path in folder.glob(f"*{SUFFIX}")}

    def _path(self, name: str) -> Path:
        files = self._files()
        if name not in files:
            raise ValueError(f"no {name}{SUFFIX} in {self.folder} among {len(files)} tables; {nearest(name, files)}")
        return files[name]
