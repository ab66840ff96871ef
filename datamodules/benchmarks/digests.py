"""Digests of files and of datasets on the hub: a task's fingerprint changes with what its rows are read from."""

import hashlib
from functools import lru_cache
from pathlib import Path

from ..messages import MissingFiles, expanded


def file_digest(*paths: Path) -> str:
    """SHA-256 of the files' contents in the order given; a file is hashed again only after it has changed."""
    digests = []
    for path in paths:
        if not path.is_file():
            raise MissingFiles(f"no file {path}")
        status = path.stat()
        digests.append(_digest(path, status.st_mtime_ns, status.st_size))
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def source_digest(source: str, *, config: str | None = None, split: str | None = None) -> str:
    """A digest of the rows that ``read_rows`` reads from `source`; for a hub dataset, of the commit on the hub."""
    path = Path(expanded(source))
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hashlib.sha256(f"{split} {file_digest(*files)}".encode()).hexdigest()
    import datasets  # takes seconds to import

    name, _, revision = source.partition("@")
    builder = datasets.load_dataset_builder(name, config, revision=revision or None)
    return hashlib.sha256(f"{source} {config} {split} {builder.hash}".encode()).hexdigest()


@lru_cache(maxsize=100_000)
def _digest(path: Path, modified: int, size: int) -> str:
    """SHA-256 of one file; `modified` and `size` are part of the cache's key."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
