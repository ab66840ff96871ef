"""Configurations by name: ``--config quickstart`` reads the quickstart.yaml that is installed with crosstask.

A file in the working directory is preferred. Inside a YAML, ``$CROSSTASK_CONFIGS`` is the folder of the installed
files; a user who sets this variable reads another folder. A YAML may include others, whose settings it overrides::

    include: [data/opt_iml_bench, models/opt_30b, strategies/fsdp2_tp2]
    trainer: {max_steps: 4000}
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datamodules.messages import expanded, nearest
from ...datamodules.yaml_files import read_yaml

VARIABLE = "CROSSTASK_CONFIGS"
INSTALLED = Path(__file__).parents[2] / "configs"


def configs_folder() -> Path:
    """Return the folder in which configurations are looked up by name; set ``$CROSSTASK_CONFIGS`` if it is not set."""
    return Path(os.environ.setdefault(VARIABLE, str(INSTALLED)))


def config_path(name: str) -> str:
    """Return the path of a configuration that is given by path or by name; URLs and JSON are returned unchanged.

    Raises:
        ValueError: Neither a file nor an installed configuration has this name.
    """
    folder = configs_folder()
    path = expanded(name)
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
    """Replace every ``--config NAME`` of a command line by ``--config=PATH`` for its file and all that it includes."""
    configs = dict(config_words(words))
    result: list[str] = []
    for place, word in enumerate(words):
        if place not in configs:
            result.append(word)
            continue
        if not word.startswith("-"):
            result.pop()  # the option before the value
        result += [f"--config={path}" for path in composed_paths(configs[place])]
    return result


def composed_paths(name: str, parents: tuple[str, ...] = ()) -> list[str]:
    """Return the paths of a configuration and of all that it includes, each before the one that overrides it.

    Args:
        name: The configuration, by path or by name.
        parents: Paths of the configurations that include it, to detect cycles.

    Raises:
        ValueError: Configurations include each other, or ``include`` is not a list of names.
    """
    path = config_path(name)
    if path in parents:
        raise ValueError(f"configurations include each other: {' -> '.join([*parents, path])}")
    included = included_names(path)
    return [*(one for inner in included for one in composed_paths(inner, (*parents, path))), path]


def included_names(path: str) -> list[str]:
    """Return the names under ``include`` in a YAML file; none if there is no such file, which the parser rejects.

    Raises:
        ValueError: The file is no valid YAML, or has a key twice, of which the parser would silently use the last.
    """
    try:
        content = read_yaml(Path(path))
    except OSError:
        return []
    names = content.get("include", []) if isinstance(content, dict) else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: include must be a list of configurations by name or path, got {names!r}")
    return names


def config_words(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield (index of the word, value) of every ``--config VALUE``, ``--config=VALUE`` and ``-c VALUE``.

    >>> list(config_words(["--config", "a.yaml", "--seed=1", "--config=b.yaml"]))
    [(1, 'a.yaml'), (3, 'b.yaml')]
    """
    for place, word in enumerate(words):
        if word in ("--config", "-c") and place + 1 < len(words):
            yield place + 1, words[place + 1]
        elif word.startswith("--config="):
            yield place, word.partition("=")[2]


def composed_settings(name: str) -> dict[str, Any]:
    """Return the settings of a configuration, given by path or name, and of all that it includes, as nested dicts."""
    settings: dict[str, Any] = {}
    for path in composed_paths(name):
        settings = merged(settings, read_settings(Path(path)))
    settings.pop("include", None)
    return settings


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML file, without those that it includes.

    Raises:
        ValueError: The file is no YAML mapping.
    """
    settings = read_yaml(path) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold named settings, got {settings!r:.80}")
    return settings


def init_args(settings: Any) -> Mapping[str, Any]:
    """Return the arguments of a class in nested settings; none where a text names the class or the user's own files.

    >>> init_args({"class_path": "Bench", "init_args": {"rules": "all"}}), init_args("mine.jsonl"), init_args(None)
    ({'rules': 'all'}, {}, {})
    """
    return (settings.get("init_args") or {}) if isinstance(settings, Mapping) else {}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested settings, overridden by others.

    If `above` names another ``class_path``, the arguments of the class in `below` are dropped.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    >>> merged({"data": {"class_path": "A", "x": 1}}, {"data": {"class_path": "A", "y": 2}})
    {'data': {'class_path': 'A', 'x': 1, 'y': 2}}
    >>> merged({"data": {"class_path": "A", "x": 1}}, {"data": {"class_path": "B", "y": 2}})
    {'data': {'class_path': 'B', 'y': 2}}
    """
    result = copy.deepcopy(dict(below))
    for name, value in above.items():
        there = result.get(name)
        if isinstance(value, Mapping) and isinstance(there, Mapping) and not _of_another_class(there, value):
            result[name] = merged(there, value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def _of_another_class(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return "class_path" in above and above["class_path"] != below.get("class_path")
