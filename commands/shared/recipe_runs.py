"""Which training tasks should be outer ones? Several splits are tried, each by a training of its own, and the best by
validation is kept, as in Differentiable Instruction Optimization (arXiv 2306.10098), which tried 16.

Runs are processes of their own, started from a recipe with a few settings changed; those found in the folder are
not repeated, so that a search goes on where it was broken off. One that was made with other settings is refused.
"""

import copy
import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

Metric = Literal["validation/rouge_l", "validation/exact_match", "validation/loss"]


def try_recipes(
    recipe: str,
    folder: str,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    metric: Metric,
    max_steps: int | None = None,
) -> dict[str, float]:
    """Train a recipe once for each variant; the metric of the validation at the end of each.

    Args:
        recipe: A YAML of crosstask fit.
        folder: Where runs and results.json are written.
        variants: By name, what is laid over the recipe.
        metric: Which number of the validation is wanted.
        max_steps: Theta steps in place of the recipe's.

    Raises:
        ValueError: There is no such recipe, a run failed or logged no such metric, or the folder holds a run by the
            name of one of them that was made with other settings.
    """
    path, home = Path(recipe).expanduser(), Path(folder).expanduser()
    if not path.is_file():
        raise ValueError(f"no recipe {path}: expected a YAML of crosstask fit")
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = {name: run_settings(settings, changes, home / name, max_steps) for name, changes in variants.items()}
    known = home / "results.json"
    results: dict[str, dict[str, float]] = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    done = {name for name in own if name in results and (home / name / "recipe.yaml").is_file()}
    for name in sorted(done):
        _require_same_settings(home / name, own[name])
    home.mkdir(parents=True, exist_ok=True)
    for name, run in own.items():
        if name not in done:
            _fit(run, home / name)
            results[name] = {}
        if metric not in results[name]:
            results[name][metric] = _last(home / name, metric)
            known.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(f"{name}: {metric} {results[name][metric]:.4f}", flush=True)
    return {name: results[name][metric] for name in variants}


def run_settings(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, max_steps: int | None = None
) -> dict[str, Any]:
    """The settings of a run: a recipe with changes laid over it, that validates once, at its end, into a folder."""
    own = merged(recipe, changes)
    trainer = own["trainer"]
    trainer["max_steps"] = max_steps or trainer["max_steps"]
    trainer |= {
        "default_root_dir": str(folder),
        "val_check_interval": trainer["max_steps"],
        "enable_progress_bar": False,
    }
    trainer["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": ""},
    }
    trainer["callbacks"], trainer["enable_checkpointing"] = [], False
    return own


def _require_same_settings(folder: Path, own: Mapping[str, Any]) -> None:
    """Refuse a finished run that was made otherwise; where its folder lay, and how one came to it, may differ."""
    places = {"trainer": {"default_root_dir": "", "logger": ""}}
    found = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    theirs, ours = (dict(_leaves(merged(each, places))) for each in (found, own))
    said = [
        f"{name} is {theirs.get(name, 'left out')} there and {ours.get(name, 'left out')} here"
        for name in {**theirs, **ours}
        if theirs.get(name) != ours.get(name)
    ]
    if said:
        more = f", and {len(said) - 3} more" if len(said) > 3 else ""
        raise ValueError(
            f"{folder} holds a run of other settings: {'; '.join(said[:3])}{more}: name another folder, or "
            "delete this one to train it again"
        )


def _leaves(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(settings)


def _fit(settings: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "crosstask.cli", "fit", "--config", str(folder / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the run in {folder} failed:\n{done.stderr[-2000:]}")


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with others in the places that those name.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    result = copy.deepcopy(dict(below))
    for name, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(name), Mapping) and "class_path" not in value
        result[name] = merged(result[name], value) if nested else copy.deepcopy(value)
    return result


def _last(folder: Path, metric: str) -> float:
    """A metric at the end of a folder's newest run."""
    path = max(folder.glob("version_*/metrics.csv"), key=lambda found: found.stat().st_mtime)
    with open(path, encoding="utf-8") as file:
        values = [row[metric] for row in csv.DictReader(file) if row.get(metric)]
    if not values:
        raise ValueError(f"{path} has no {metric}: set the datamodule's validation_examples to 1 or more")
    return float(values[-1])
