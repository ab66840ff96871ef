"""Variants of a recipe, trained one after another and compared by a metric of their validation.

Each run is a process. Runs that are complete in the folder are not repeated, so that an interrupted search resumes; a
run with other settings in the same folder is rejected.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from .config_names import composed_settings, merged

Metric = Literal["validation/rouge_l", "validation/exact_match", "validation/loss"]


def try_recipes(
    recipe: str,
    folder: str,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    metric: Metric,
    max_steps: int | None = None,
) -> dict[str, float]:
    """Train a recipe once for each variant; returns the metric of the validation at the end of each run.

    Args:
        recipe: YAML of `crosstask fit`, by path or by name.
        folder: Where the runs and results.json are written.
        variants: By name, settings that override the recipe.
        metric: Metric of the validation.
        max_steps: Steps of theta; the recipe's by default.

    Raises:
        ValueError: There is no such recipe, a run failed or did not log the metric, or the folder holds a run of the
            same name with other settings.
    """
    home = Path(folder).expanduser()
    settings = composed_settings(recipe)
    runs = {name: run_settings(settings, changes, home / name, max_steps) for name, changes in variants.items()}
    results_file = home / "results.json"
    results: dict[str, dict[str, float]] = (
        json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else {}
    )
    done = {name for name in runs if name in results and (home / name / "recipe.yaml").is_file()}
    for name in sorted(done):
        _require_same_settings(home / name, runs[name])
    home.mkdir(parents=True, exist_ok=True)
    for name, run in runs.items():
        if name not in done:
            _fit(run, home / name)
            results[name] = {}
        if metric not in results[name]:
            results[name][metric] = _last(home / name, metric)
            results_file.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(f"{name}: {metric} {results[name][metric]:.4f}", flush=True)
    return {name: results[name][metric] for name in variants}


def run_settings(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, max_steps: int | None = None
) -> dict[str, Any]:
    """The settings of a run: the recipe, overridden by changes, with one validation at the end, and a folder."""
    settings = merged(recipe, changes)
    trainer = settings["trainer"]
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
    return settings


def _require_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Reject a finished run that has other settings; only its folder may differ."""
    places = {"trainer": {"default_root_dir": "", "logger": ""}}
    finished = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    theirs, ours = (dict(_leaves(merged(run, places))) for run in (finished, settings))
    differences = [
        f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        for name in {**theirs, **ours}
        if theirs.get(name) != ours.get(name)
    ]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ValueError(
            f"{folder} holds a run of other settings: {'; '.join(differences[:3])}{more}: name another folder, or "
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


def _last(folder: Path, metric: str) -> float:
    """The last value of a metric in a folder's newest run."""
    path = max(folder.glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    with open(path, encoding="utf-8") as file:
        values = [row[metric] for row in csv.DictReader(file) if row.get(metric)]
    if not values:
        raise ValueError(f"{path} has no {metric}: set the datamodule's instances.validation to 1 or more")
    return float(values[-1])
