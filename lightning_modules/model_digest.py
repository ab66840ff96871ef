"""Digest of a model's files, computed without loading it: results are reused only if it matches."""

from pathlib import Path

from transformers.utils import cached_file

from ..datamodules.file_digests import tree_digest
from ..datamodules.hub_names import hub_source
from ..datamodules.messages import expanded
from .prefixes import base_of_prefix

SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
"""Suffixes of files that decide the outputs of a model and its tokenizer."""


def model_digest(name: str) -> str:
    """Return a digest of a model and its tokenizer: of a folder's files, or the commit of a hub model.

    Args:
        name: Hub name, or folder of a model, a tokenizer or a prefix. For a prefix, its base model is included.

    Raises:
        ValueError: There is no such model.
    """
    folder, base = expanded(name), base_of_prefix(name)
    own = _files_digest(folder) if folder.is_dir() else _commit(name)
    return own if base is None else f"{own} {model_digest(base)}"


def _files_digest(folder: Path) -> str:
    return tree_digest(folder, (path for path in folder.iterdir() if path.suffix in SUFFIXES))[:32]


def _commit(name: str) -> str:
    """Return the commit of a hub model, from the path of its configuration in the cache."""
    try:
        source, revision = hub_source(name)
        path = cached_file(source, "config.json", **revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"no model {name!r}: expected a hub name or a folder with config.json ({error})") from error
    snapshot = Path(str(path)).parent
    return snapshot.name if snapshot.parent.name == "snapshots" else _files_digest(snapshot)
