"""Digests of the sources of rows: a task's fingerprint changes with them."""

import hashlib

from ..file_digests import tree_digest
from ..messages import expanded
from ..noted_paths import note


def source_digest(source: str, *, config: str | None = None, split: str | None = None) -> str:
    """A digest of the rows that ``read_rows`` reads from `source`; for a hub dataset, of the commit on the hub."""
    path = expanded(source)
    if path.is_file():
        return tree_digest(path)
    if path.is_dir():
        return hashlib.sha256(f"{split} {tree_digest(path)}".encode()).hexdigest()
    note(f"hub:{source}")
    import datasets  # takes seconds to import

    name, _, revision = source.partition("@")
    builder = datasets.load_dataset_builder(name, config, revision=revision or None)
    return hashlib.sha256(f"{source} {config} {split} {builder.hash}".encode()).hexdigest()
