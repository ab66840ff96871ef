"""Runs of variants of a recipe, trained one after another and compared by a validation metric.

Each run is a process. Finished runs in the folder are not repeated, so that an interrupted search resumes. A finished
run with other settings, or with other files under the same paths, is rejected.
"""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ...datamodules.atomic_files import write_whole
from ...datamodules.data_files import read_json
from ...datamodules.file_digests import tree_digest
from ...datamodules.messages import expanded
from ...datamodules.record_fields import number_field
from ...datamodules.worker_processes import run_command
from .config_names import composed_settings, merged, read_settings

INPUTS = "inputs.json"
"""File in a run's folder with the digests of the files that the run reads."""

PATHS = frozenset({"benchmark", "source", "folder", "templates", "pretrained", "tokenizer"})
"""Arguments whose values may be files of the working directory, such as ``benchmark: mine.jsonl``."""

Metric = Literal["validation/rouge_l", "validation/exact_match", "validation/loss"]


def try_recipes(
    recipe: str,
    folder: str,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    metric: Metric,
    max_steps: int | None = None,
) -> dict[str, float]:
    """Train a recipe once for each variant, and return the metric of the last validation of each run, by its name.

    Args:
        recipe: YAML of `crosstask fit`, by path or by name.
        folder: Folder of the runs and of results.json.
        variants: Settings of each variant that override the recipe's, by name.
        metric: Metric of the validation.
        max_steps: Optimizer steps of each run; None for the recipe's.

    Raises:
        ValueError: There is no such recipe, a run failed or did not log the metric, or the folder holds a run of the
            same name with other settings or other input files.
    """
    home = expanded(folder)
    settings = composed_settings(recipe)
    runs = {name: run_settings(settings, changes, home / name, max_steps) for name, changes in variants.items()}
    results_file = home / "results.json"
    results = _read_results(results_file) if results_file.exists() else {}
    done = {name for name in runs if name in results and (home / name / "recipe.yaml").is_file()}
    for name in sorted(done):
        require_same_settings(home / name, runs[name])
    home.mkdir(parents=True, exist_ok=True)
    for name, run in runs.items():
        if name not in done:
            _fit(run, home / name)
            results[name] = {}
        if metric not in results[name]:
            results[name][metric] = _last(home / name, metric)
            write_whole(results_file, json.dumps(results, indent=1))
        print(f"{name}: {metric} {results[name][metric]:.4f}", flush=True)
    return {name: results[name][metric] for name in variants}


def _read_results(path: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of finished runs, by the run's name and the metric's name."""
    try:
        results: dict[str, dict[str, float]] = read_json(path)
        for metrics in results.values():
            for metric in metrics:
                number_field(metrics, metric, -1e30, 1e30)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} holds no results of runs ({error}): name another folder, or remove it") from error
    return results


def run_settings(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, max_steps: int | None = None
) -> dict[str, Any]:
    """Return the settings of a run that validates once at its end, and keeps logs but no checkpoints.

    Args:
        recipe: Settings of the recipe.
        changes: Settings that override the recipe's.
        folder: Folder of the run.
        max_steps: Optimizer steps; None for the recipe's.
    """
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


def require_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Reject the reuse of a finished run that had other settings, or whose input files have changed since.

    Args:
        folder: Folder of the finished run, in which its settings and the digests of its input files are recorded.
        settings: Settings of the run that is wanted; folder and logger may differ.

    Raises:
        ValueError: The message names the first differences, or the input files. Also if the folder has no record of its
            input files.
    """
    places = {"trainer": {"default_root_dir": "", "logger": ""}}
    finished = read_settings(folder / "recipe.yaml")
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
    read, there = run_inputs(settings), folder / INPUTS
    if not there.is_file() or read_json(there) != read:
        raise ValueError(
            f"{folder} holds a run on other files than those at {', '.join(read)}: name another folder, or delete this "
            "one to train it again"
        )


def run_inputs(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the local files and folders that a run's settings of model and data name, by path."""
    parts = {name: settings.get(name, {}) for name in ("model", "data")}
    paths = {value for name, value in _leaves(parts) if _may_be_path(name, value)}
    there = {path: os.path.expanduser(os.path.expandvars(path)) for path in sorted(paths)}
    return {path: tree_digest(Path(place)) for path, place in there.items() if os.path.exists(place)}


def _may_be_path(name: str, value: str) -> bool:
    """Return whether a setting may name a file that the run reads: any text with a slash, or a plain name of data."""
    *_, holder, argument = ("", *name.split("."))
    return argument != "cache" and ("/" in value or argument in PATHS or holder == "collections")


def _leaves(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list) and settings:
        for place, value in enumerate(settings):
            yield from _leaves(value, f"{name}[{place}]")
    else:
        yield name, str(settings)


def _fit(settings: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / INPUTS, json.dumps(run_inputs(settings), indent=1))
    write_whole(folder / "recipe.yaml", yaml.safe_dump(settings))
    command = [sys.executable, "-m", "crosstask.cli", "fit", "--config", str(folder / "recipe.yaml")]
    log = folder / "fit.log"
    with open(log, "w", encoding="utf-8") as file:
        status = run_command(command, stdout=file, stderr=subprocess.STDOUT)
    if status:
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
        raise ValueError(f"the run in {folder} failed ({log}):\n{end}")


def _last(folder: Path, metric: str) -> float:
    """Return the last value of a metric in the logs of a folder's newest run."""
    paths = list(folder.glob("version_*/metrics.csv"))
    if not paths:
        raise ValueError(
            f"no metrics of the run in {folder} (version_*/metrics.csv): set the datamodule's instances.validation to "
            f"1 or more, read {folder / 'fit.log'}, and remove {folder} to train this run again"
        )
    path = max(paths, key=lambda path: int(path.parent.name.removeprefix("version_")))
    try:
        with open(path, encoding="utf-8") as file:
            values = [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} holds no metrics ({error}): remove {folder} to train this run again") from error
    if not values:
        raise ValueError(
            f"{path} has no {metric}: set the datamodule's instances.validation to 1 or more, leave "
            f"trainer.limit_val_batches out, and remove {folder} to train this run again"
        )
    if not math.isfinite(values[-1]):
        raise ValueError(f"{path}: the last {metric} is {values[-1]}, by which no run can be compared")
    return values[-1]
