"""Digests of rows: a task's fingerprint changes with the file, folder or hub dataset that it is read from."""

import hashlib

from ...file_digests import tree_digest
from ...messages import expanded
from ...tracked_files import note


def source_digest(source: str, *, config: str | None = None, split: str | None = None) -> str:
    """Return a digest of a file, folder or hub dataset of rows, by which changed data is noticed.

    Of a file or folder, the contents are digested; of a hub dataset, its current commit, configuration and split.

    Args:
        source: A file, a folder, or a hub name, ``"owner/name"`` or ``"owner/name@revision"``.
        config: Configuration of a hub dataset; None for its default.
        split: Split of a hub dataset or of a saved one; None for its default.
    """
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
