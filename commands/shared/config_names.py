"""YAML files by name: ``--config quickstart`` reads the quickstart.yaml that is installed with crosstask.

A file relative to the working directory is preferred. Inside a YAML, ``$CROSSTASK_CONFIGS`` is the folder of the
installed files; a user who sets this variable reads another folder.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...datamodules.messages import nearest

VARIABLE = "CROSSTASK_CONFIGS"
INSTALLED = Path(__file__).parents[2] / "configs"


def configs_folder() -> Path:
    """The folder in which configurations are looked up by name; sets ``$CROSSTASK_CONFIGS`` where it is not set."""
    return Path(os.environ.setdefault(VARIABLE, str(INSTALLED)))


def config_path(name: str) -> str:
    """The path of a configuration that is given by path or by name.

    Raises:
        ValueError: Neither a file nor an installed configuration has this name.
    """
    folder = configs_folder()
    path = Path(name).expanduser()
    if path.is_file() or "://" in name or name.lstrip().startswith("{"):  # jsonargparse also reads URLs and JSON
        return str(path) if path.is_file() else name
    named = folder / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if named.is_file():
        return str(named)
    installed = [str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml")]
    raise ValueError(
        f"no configuration {name!r}: neither a file (from {Path.cwd()}) nor one of the {len(installed)} in {folder}; "
        f"{nearest(name.removesuffix('.yaml'), installed)}"
    )


def with_config_paths(words: Sequence[str]) -> list[str]:
    """The words of a command line with the names of configurations replaced by their paths."""
    result = list(words)
    for place, value in config_words(words):
        path = config_path(value)
        result[place] = f"{result[place].partition('=')[0]}={path}" if result[place].startswith("-") else path
    return result


def config_words(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Place and value of every ``--config VALUE``, ``--config=VALUE`` and ``-c VALUE``.

    >>> list(config_words(["--config", "a.yaml", "--seed=1", "--config=b.yaml"]))
    [(1, 'a.yaml'), (3, 'b.yaml')]
    """
    for place, word in enumerate(words):
        if word in ("--config", "-c") and place + 1 < len(words):
            yield place + 1, words[place + 1]
        elif word.startswith("--config="):
            yield place, word.partition("=")[2]
