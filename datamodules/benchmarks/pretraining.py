"""Pre-training text: documents to continue, with nothing to read before them; all of a document is target.

OPT-IML mixes some of OPT's corpus into instruction tuning (section 4.1). A document stays whole here, as all
documents do in the paper's rows: what is longer than a row keeps its end when it is packed, and is counted there.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..messages import expanded, nearest
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .row_files import Row, file_digest, file_rows, naming, rows, source_digest

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

NO_TEXT = "no text"

LONGEST_DOCUMENT = 64 * 2**20
"""Bytes of a .txt file beyond which it is refused: it is one document, and is held in memory."""


class PretrainingText(Benchmark):
    """Reads documents, a task each source.

    Args:
        sources: Where each task's documents are: a .txt file, which is one document; a .jsonl, .json, .tsv, .csv,
            .parquet or .arrow file, a document a row; a folder of such files, or of ``Dataset.save_to_disk``; or a
            dataset of the hub, streamed.
        column: Column that holds the text.
        configs: Configuration on the hub, by task.
        split: Split on the hub.
    """

    name = "pretraining"

    def __init__(
        self,
        sources: dict[str, str],
        column: str = "text",
        configs: dict[str, str] | None = None,
        split: str = "train",
    ) -> None:
        if not sources:
            raise ValueError('sources must name at least one corpus, e.g. {"books": "/data/books.jsonl"}')
        self.sources = dict(sources)
        self.column = column
        self.configs = dict(configs or {})
        self.split = split

    def task_names(self, split: Split) -> list[str]:
        """All sources; text is for training only."""
        return list(self.sources) if split == "train" else []

    def task(self, name: str) -> Task:
        """A task without an instruction, in a category of its own."""
        self._source(name)
        return Task(
            benchmark=self.name, name=name, category="Pre-training", instruction_level="instance", sources=(name,)
        )

    def examples(self, name: str) -> Iterator[Example]:
        """Every document, whole, in the order of its files."""
        source = self._source(name)
        with naming(self.name, name):
            for index, row in enumerate(self._rows(name, source)):
                text = row.text(self.column)
                skipped = "" if text.strip() else NO_TEXT
                yield Example(name, str(index), index, "", () if skipped else (text,), skipped=skipped)

    def fingerprint(self, name: str) -> str:
        """SHA-256 of this reader, its arguments and the files."""
        source = self._source(name)
        path = Path(expanded(source))
        if path.is_dir() and not _saved(path):
            content = file_digest(*_files(path))
        else:
            content = source_digest(source, config=self.configs.get(name), split=self.split)
        header = f"{self.name} {READER_VERSION} {name} {self.column} {content}"
        return hashlib.sha256(header.encode()).hexdigest()

    def _source(self, name: str) -> str:
        if name not in self.sources:
            raise ValueError(f"no task {name!r} in {self.name}; {nearest(name, self.sources)}")
        return self.sources[name]

    def _rows(self, name: str, source: str) -> Iterator[Row]:
        path = Path(expanded(source))
        if path.is_dir() and not _saved(path):
            for file in _files(path):
                yield from self._file_rows(file)
        elif path.is_file():
            yield from self._file_rows(path)
        else:
            yield from rows(source, config=self.configs.get(name), split=self.split)

    def _file_rows(self, path: Path) -> Iterator[Row]:
        if path.suffix != ".txt":
            yield from file_rows(path)
            return
        if path.stat().st_size > LONGEST_DOCUMENT:
            raise ValueError(
                f"{path}: longer than {LONGEST_DOCUMENT // 2**20} MiB, and a .txt file is one document; "
                'write its documents as JSONL, {"text": ...} a line'
            )
        try:
            yield Row({self.column: path.read_text(encoding="utf-8")}, str(path))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def _saved(folder: Path) -> bool:
    """Whether `datasets` wrote this folder."""
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no files of text")
    return files
