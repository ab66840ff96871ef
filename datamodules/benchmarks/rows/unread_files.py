"""Data files in a benchmark's folder that no task reads. They are counted, so that a misspelt name is noticed."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ...data_files import format_of
from ...folder_files import files_below
from ...messages import counted, some

DATA_FORMATS = frozenset(
    ".jsonl .json .jsonlines .ndjson .tsv .csv .txt .parquet .arrow .bz2 .xz .zst .zip .tar .tgz .gz".split()
)
"""Suffixes of files that may hold examples, and of archives."""


def unread_files(folder: Path, read: Iterable[Path]) -> list[Path]:
    """Return the data files below a folder that are not among those `read`; hidden files and READMEs are ignored.

    Args:
        folder: Folder of a benchmark.
        read: Files, and folders of files, that some task reads.
    """
    known = set(read)
    files = (path for path in files_below(folder) if format_of(path) in DATA_FORMATS)
    return [path for path in files if not (known & {path, *path.parents} or _is_about_data(path, folder))]


def unread_line(folder: Path, files: Iterable[Path]) -> str:
    """Return a sentence that counts unread files by folder and suffix.

    >>> unread_line(Path("mine"), [Path("mine/dev/a.jsonl"), Path("mine/dev/b.jsonl"), Path("mine/a.tsv")])
    '3 data files not read in mine: 2 dev/*.jsonl, 1 *.tsv'
    """
    kinds = Counter(str(path.relative_to(folder).with_name(f"*{path.suffix}")) for path in files)
    counts = [f"{count} {kind}" for kind, count in kinds.most_common()]
    return f"{counted(sum(kinds.values()), 'data file')} not read in {folder}: {some(counts)}"


def _is_about_data(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or path.stem.lower() in ("readme", "license", "licence", "requirements", "dataset_info")
