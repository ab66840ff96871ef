"""Digest of a model before it is loaded: what was computed with it is reused only if it matches."""

import hashlib
from functools import lru_cache
from pathlib import Path

from transformers.utils import cached_file

from ..datamodules.hub_names import hub_source
from .prefixes import base_of_prefix

SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
"""Suffixes of files that decide the outputs of a model and its tokenizer."""


def model_digest(name: str) -> str:
    """A digest of a model and its tokenizer: of its files, or the commit of a model of the hub.

    Args:
        name: Hub name, or folder of a model, of a tokenizer, or of a prefix, whose model is included.

    Raises:
        ValueError: There is no such model.
    """
    folder, base = Path(name).expanduser(), base_of_prefix(name)
    own = _files_digest(folder, _state(folder)) if folder.is_dir() else _commit(name)
    return own if base is None else f"{own} {model_digest(base)}"


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files, so that a process digests an unchanged folder once."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@lru_cache(maxsize=64)
def _files_digest(folder: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, _ in state:
        digest.update(f"{name} {size} ".encode())
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _commit(name: str) -> str:
    """The commit of a model of the hub, by the path of its configuration in the cache."""
    try:
        source, revision = hub_source(name)
        path = cached_file(source, "config.json", **revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"no model {name!r}: expected a hub name or a folder with config.json ({error})") from error
    snapshot = Path(str(path)).parent
    return snapshot.name if snapshot.parent.name == "snapshots" else _files_digest(snapshot, _state(snapshot))
