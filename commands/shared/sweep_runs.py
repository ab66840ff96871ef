"""Runs of a sweep: each arm with each seed is trained and evaluated in its own folder, and resumed if interrupted."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...callbacks.report.predictions import has_predictions
from ...datamodules.atomic_files import write_whole
from ...datamodules.data_files import read_json
from ...datamodules.messages import some
from ...datamodules.worker_processes import run_command
from .config_names import composed_settings, init_args, merged
from .recipe_runs import INPUTS, require_same_settings, run_inputs
from .sweep_declarations import Sweep, folder_name

WRITERS = {
    "PredictionWriter": {},
    "ModelCheckpoint": {
        "save_last": True,
        "save_top_k": 0,
        "every_n_train_steps": 500,
        "enable_version_counter": False,  # with it, the save after the last step has a file of its own, last-v1.ckpt
    },
}
"""Callbacks that are added to a run of a sweep if the recipe lacks them, with their arguments."""


COSTS = "costs.json"
"""File in a run's folder with the processor time of each command, in seconds."""


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep, of an arm (a variant of the recipe) with one seed, and its evaluation.

    Args:
        arm: Name of the arm.
        folder: Folder of the run.
        settings: Settings of ``crosstask fit``.
        stage: Stage that is evaluated: ``validation`` or ``test``.
    """

    arm: str
    folder: Path
    settings: Mapping[str, Any]
    stage: str

    @property
    def is_evaluated(self) -> bool:
        """Whether the predictions of the evaluation are complete."""
        return has_predictions(self.folder, self.stage)


def sweep_runs(
    sweep: Sweep,
    output: Path,
    *,
    model: str | None = None,
    configs: Sequence[str] = (),
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
) -> list[SweepRun]:
    """List the trainings of a sweep: each arm (a variant of the recipe) with each seed, arm after arm.

    Args:
        sweep: Declaration of the sweep.
        output: Folder of all runs.
        model: Hub name or folder of the pretrained model; None for the recipe's.
        configs: Configurations, by path or by name, that override the recipe's settings in all arms.
        seeds: Seeds, one for each repetition of an arm; if empty, one run with the recipe's seeds.
        arms: Names of the arms; if empty, all.

    Raises:
        ValueError: There is no such arm, or an arm gives a share to a collection that the recipe lacks.
    """
    for name in arms:
        if name not in sweep.arms:
            raise ValueError(f"the sweep has no arm {name!r}; there are {', '.join(sweep.arms)}")
    common = merged(composed_settings(sweep.recipe), sweep.settings)
    for config in configs:
        common = merged(common, composed_settings(config))
    if model is not None:
        common = merged(common, {"model": {"init_args": {"pretrained": model, "config": None}}})
    runs = []
    for name in arms or sweep.arms:
        settings = merged(common, sweep.arms[name])
        _require_collections(name, settings)
        for seed in seeds or (None,):
            folder = output / folder_name(name) / ("run" if seed is None else f"seed-{seed}")
            runs.append(SweepRun(name, folder, _run_settings(settings, folder, seed), sweep.stage))
    return runs


def _run_settings(settings: Mapping[str, Any], folder: Path, seed: int | None) -> dict[str, Any]:
    of_run = merged(settings, {"trainer": {"default_root_dir": str(folder), "enable_progress_bar": False}})
    if seed is not None:
        seeds = {"seed_everything": seed, "model": {"init_args": {"seed": seed}}, "data": {"init_args": {"seed": seed}}}
        of_run = merged(of_run, seeds)
    given = of_run["trainer"].get("callbacks") or []
    callbacks = list(given) if isinstance(given, list) else [given]
    names = [callback if isinstance(callback, str) else callback["class_path"] for callback in callbacks]
    there = {name.rpartition(".")[2] for name in names}
    missing = [{"class_path": name, "init_args": dict(WRITERS[name])} for name in WRITERS if name not in there]
    of_run["trainer"]["callbacks"] = callbacks + missing
    return of_run


def _require_collections(arm: str, settings: Mapping[str, Any]) -> None:
    """Reject shares of collections that the arm's benchmark lacks, unless ``mixture.absent`` is ``shared``."""
    data = init_args(settings.get("data"))
    mixture, collections = data.get("mixture") or {}, init_args(data.get("benchmark")).get("collections")
    if collections is None or mixture.get("absent") == "shared":
        return
    shares = {**(mixture.get("proportions") or {}), **(mixture.get("extra") or {})}
    if absent := [name for name in shares if name not in collections]:
        raise ValueError(
            f"the arm {arm!r} mixes {some(absent)}, and the benchmark has only {some(list(collections))}: name the "
            "collection in data.init_args.benchmark, or set mixture.absent to shared"
        )


def write_run(run: SweepRun) -> None:
    """Write the settings of a training (recipe.yaml) and digests of its input files into its folder, before it starts.

    Raises:
        ValueError: The folder has a run with other settings or other input files.
    """
    if (run.folder / "recipe.yaml").is_file():
        require_same_settings(run.folder, run.settings)
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    write_whole(run.folder / INPUTS, json.dumps(run_inputs(run.settings), indent=1))
    write_whole(run.folder / "recipe.yaml", yaml.safe_dump(dict(run.settings)))


def train_and_evaluate(run: SweepRun) -> None:
    """Train a run and evaluate it, each in a process of its own; an interrupted run resumes.

    The processor time of each command is added to ``costs.json`` in the run's folder.

    Raises:
        ValueError: A process failed, and the message has the end of its output; or the evaluation is incomplete.
    """
    for words in run_commands(run):
        log = run.folder / f"{words[0]}.log"
        with open(log, "a", encoding="utf-8") as file:
            command, before = [sys.executable, "-m", "crosstask.cli", *words], _processor_seconds()
            try:
                status = run_command(command, stdout=file, stderr=subprocess.STDOUT)
            finally:  # also of a command that a signal has ended, which the next sweep resumes
                _add_cost(run.folder, words[0], _processor_seconds() - before)
        if status:
            end = log.read_text(encoding="utf-8", errors="replace")[-1500:].strip()
            raise ValueError(f"`crosstask {words[0]}` failed for {run.folder} ({log}):\n{end}")
    if not run.is_evaluated:
        raise ValueError(f"{run.folder} has no predictions of the {run.stage} stage, which its recipe may limit")


def _processor_seconds() -> float:
    """Return the processor time, in seconds, of the processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_costs(folder: Path) -> dict[str, float]:
    """Return the processor time of each command in seconds; empty for a run that no sweep has started."""
    path = folder / COSTS
    costs: dict[str, float] = read_json(path) if path.is_file() else {}
    return costs


def _add_cost(folder: Path, command: str, seconds: float) -> None:
    costs = run_costs(folder)
    write_whole(folder / COSTS, json.dumps(costs | {command: round(costs.get(command, 0.0) + seconds, 3)}))


def run_commands(run: SweepRun) -> Iterator[list[str]]:
    """Yield the words of the commands that train and evaluate a run."""
    words = ["--config", str(run.folder / "recipe.yaml"), "--ckpt_path", "last"]
    yield ["fit", *words]
    yield ["validate", *words, "--trainer.limit_val_batches", "1.0"] if run.stage == "validation" else ["test", *words]
