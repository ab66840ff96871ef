"""Benchmark reader of pre-training text: documents without an input, whose whole text is target.

OPT-IML mixes some of OPT's corpus into instruction tuning (arXiv 2212.12017, section 4.1). Documents are not split, as
in the paper: packing cuts a document that is longer than a row, keeps its end, and counts it. For an encoder-decoder
model, an objective (``rendering/pretraining_objectives.py``) makes source and target of a document.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..data_files import format_of, read_text
from ..file_digests import file_digest
from ..folder_files import files_below
from ..messages import MissingFiles, expanded, nearest
from ..rendering.pretraining_objectives import TextObjective
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .rows.row import Row, error_prefix
from .rows.row_files import SUFFIXES, file_rows, read_rows
from .rows.source_digests import source_digest
from .rows.unread_files import unread_files, unread_line

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

NO_TEXT = "no text"
"""Reason for skipping a document."""

FORMATS = (".txt", *SUFFIXES)
"""Suffixes of files of documents."""

LONGEST_DOCUMENT = 64 * 2**20
"""Maximum number of bytes of a .txt file, which is one document and is held in memory."""


class PretrainingText(Benchmark):
    """Reads documents of plain text for pre-training, without prompts; every source is a training task.

    Args:
        sources: Source of documents for each task: a .txt file, which is one document; a .jsonl, .json, .tsv, .csv,
            .parquet or .arrow file with a document per row; a folder of such files, or of ``Dataset.save_to_disk``; or
            a hub dataset, which is streamed.
        column: Column of the text.
        configs: Configuration of hub datasets, by task.
        split: Split of hub datasets.
        objective: Pre-training objective of an encoder-decoder model: ``SpanCorruption`` or
            ``PrefixLanguageModelling``. None for a decoder-only model, which is trained on the whole text.
    """

    name = "pretraining"

    def __init__(
        self,
        sources: dict[str, str],
        column: str = "text",
        configs: dict[str, str] | None = None,
        split: str = "train",
        objective: TextObjective | None = None,
    ) -> None:
        if not sources:
            raise ValueError('sources must name at least one corpus, e.g. {"books": "/data/books.jsonl"}')
        self.sources = dict(sources)
        self.column = column
        self.configs = dict(configs or {})
        self.split = split
        self.text_objective = objective

    def task_names(self, split: Split) -> list[str]:
        """Return the names of all sources for the split "train"; other splits are empty.

        Raises:
            MissingFiles: A source with the suffix of a file does not exist.
        """
        for source in self.sources.values():
            path = expanded(source)
            if format_of(path) in FORMATS and not path.is_file():
                raise MissingFiles(f"no file {path} of documents")
        return list(self.sources) if split == "train" else []

    def task(self, name: str) -> Task:
        """Return a task without an instruction, in the category "Pre-training"."""
        self._source(name)
        return text_task(self.name, name)

    def examples(self, name: str) -> Iterator[Example]:
        """Yield every document, uncut, in the order of the files; documents without text are skipped."""
        source = self._source(name)
        with error_prefix(self.name, name):
            for index, row in enumerate(self._rows(name, source)):
                text = row.text(self.column)
                skipped = "" if text.strip() else NO_TEXT
                yield Example(name, str(index), index, "", () if skipped else (text,), skipped=skipped)

    def objective(self, name: str) -> TextObjective | None:
        """Return the `objective` argument, for every task; None if the whole text is trained."""
        return self.text_objective

    def unread_lines(self) -> list[str]:
        """Return lines that count data files in folders of documents whose suffix is none of ``FORMATS``."""
        folders = [expanded(source) for source in self.sources.values()]
        folders = [folder for folder in folders if folder.is_dir() and not _is_saved_dataset(folder)]
        unread = [(folder, unread_files(folder, _files(folder))) for folder in folders]
        return [unread_line(folder, files) for folder, files in unread if files]

    def fingerprint(self, name: str) -> str:
        """Return the SHA-256 of reader version, arguments and files."""
        source = self._source(name)
        path = expanded(source)
        if path.is_dir() and not _is_saved_dataset(path):
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
        path = expanded(source)
        if path.is_dir() and not _is_saved_dataset(path):
            for file in _files(path):
                yield from self._file_rows(file)
        elif path.is_file():
            yield from self._file_rows(path)
        else:
            yield from read_rows(source, config=self.configs.get(name), split=self.split)

    def _file_rows(self, path: Path) -> Iterator[Row]:
        if format_of(path) != ".txt":
            yield from file_rows(path)
            return
        if path.stat().st_size > LONGEST_DOCUMENT:
            raise ValueError(
                f"{path}: longer than {LONGEST_DOCUMENT // 2**20} MiB, and a .txt file is one document; "
                'write its documents as JSONL, {"text": ...} a line'
            )
        yield Row({self.column: read_text(path)}, str(path))


def text_task(benchmark: str, name: str) -> Task:
    """Return a task of pre-training text: no instruction, in the category "Pre-training"."""
    return Task(benchmark=benchmark, name=name, category="Pre-training", instruction_level="none", sources=(name,))


def _is_saved_dataset(folder: Path) -> bool:
    """Return whether ``Dataset.save_to_disk`` wrote this folder."""
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


def _files(folder: Path) -> list[Path]:
    paths = (path for path in files_below(folder) if not path.name.startswith("."))
    files = [path for path in paths if format_of(path) in FORMATS]
    if not files:
        raise ValueError(f"{folder} holds no documents: files that end in {', '.join(FORMATS)}")
    return files
