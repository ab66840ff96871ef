"""Hub names of models and tokenizers with a pinned revision, ``owner/name@revision``."""

from pathlib import Path
from typing import Any

from .messages import expanded


def hub_source(name: str | Path) -> tuple[str, dict[str, Any]]:
    """Return (name, options) for ``from_pretrained``: a hub name without its revision, and the revision as an option.

    A folder has no revision, whatever characters its path holds; ``~`` and environment variables are replaced.

    >>> hub_source("facebook/opt-1.3b@main"), hub_source("facebook/opt-1.3b")
    (('facebook/opt-1.3b', {'revision': 'main'}), ('facebook/opt-1.3b', {}))
    """
    if (path := expanded(name)).exists():
        return str(path), {}
    alone, at, revision = str(name).rpartition("@")
    if not at or not alone or not revision or "/" in revision:
        return str(name), {}
    return alone, {"revision": revision}


def with_revision(name: str | None, revision: str | None) -> str | None:
    """Return a hub name with a revision appended; the name unchanged if the revision is None.

    >>> with_revision("facebook/opt-1.3b", "8c7b10754972749675d22364c25c428b29face51")
    'facebook/opt-1.3b@8c7b10754972749675d22364c25c428b29face51'

    Raises:
        ValueError: There is a revision, and the name is missing, is a folder, or has another revision.
    """
    if revision is None:
        return name
    if name is None:
        raise ValueError(f"revision = {revision!r} needs `pretrained`, which is not given")
    if expanded(name).exists():
        raise ValueError(f"{name} is a folder and has no revision {revision!r}: give the name of a model on the hub")
    alone, of_name = hub_source(name)
    if of_name.get("revision", revision) != revision:
        raise ValueError(f"{name} names a revision, and revision = {revision!r} is another one: give one of them")
    return f"{alone}@{revision}"
