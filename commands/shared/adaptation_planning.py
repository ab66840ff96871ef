"""Printing of the plan of `crosstask adapt --plan`: hours, memory and disk of the unfinished tasks."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...datamodules.messages import counted, some
from ...datamodules.visible_text import terminal_text
from ...lightning_modules.adaptation.adaptation_plan import (
    TRIAL_EXAMPLES,
    TRIAL_STEPS,
    AdaptationPlan,
    TaskLoad,
    plan_adaptation,
    task_load,
    trials_on,
)
from ...lightning_modules.adaptation.scorer_records import ScorerRecords
from ...lightning_modules.scoring.sampled_responses import SampledResponses

DEVICES = (1, 2, 4, 8, 16)
"""Numbers of devices for which hours are printed."""


def print_adaptation_plan(
    names: Sequence[str], scorers: ScorerRecords, read: Callable[[str], list[SampledResponses]], console: Console
) -> None:
    """Print the time, memory and disk that the unfinished tasks need, measured by a few steps on one of them.

    Args:
        names: Names of all tasks.
        scorers: Trains the scorers of a task, and knows which tasks are finished.
        read: Function that returns a task's test instances with their responses.
        console: Console to print to.

    Raises:
        ValueError: No unfinished task can be adapted.
    """
    unfinished = [name for name in names if not scorers.finished(name)]
    if not unfinished:
        console.print(f"all {len(names)} tasks are finished")
        return
    loads, failed = _loads(unfinished, scorers, read)
    if not loads:
        raise ValueError(f"none of {len(unfinished)} tasks can be adapted, e.g. {next(iter(failed.values()))}")
    longest = max(loads, key=lambda name: loads[name].length)
    trainings = {name: training for name, (training, _) in scorers.trainings.items()}
    trials = trials_on(longest, scorers, read(longest))
    plan = plan_adaptation(loads, trials, trainings, keep=scorers.keep)
    console.print(_trial_table(plan, longest))
    for line in _lines(plan, scorers, len(names) - len(unfinished), failed):
        console.print(terminal_text(line), highlight=False)


def _loads(
    names: Sequence[str], scorers: ScorerRecords, read: Callable[[str], list[SampledResponses]]
) -> tuple[dict[str, TaskLoad], dict[str, str]]:
    """Return the loads of tasks, and the reasons why other tasks cannot be adapted."""
    loads, failed = dict[str, TaskLoad](), dict[str, str]()
    most = max(training.train_examples for training, _ in scorers.trainings.values())
    for name in names:
        try:
            sampled = read(name)
        except ValueError as error:
            failed[name] = str(error)
            continue
        tested = {one.prompt.example.id for one in sampled}
        trained = sum(example.id not in tested for example in scorers.train.examples(name))
        loads[name] = task_load(min(trained, most), sampled)
    return loads, failed


def _trial_table(plan: AdaptationPlan, task: str) -> Table:
    title = f"{1 + TRIAL_STEPS} steps on {TRIAL_EXAMPLES} instances of {task}, whose pairs are the longest"
    headers = ("scorer", "s a step", "s to start", "s for 1,000 responses", "peak MiB", "MiB of weights")
    table = Table(*headers, title=terminal_text(title), title_justify="left")
    for name, one in plan.trials.items():
        numbers = f"{one.step:.2f}", f"{one.start:.1f}", f"{1000 * one.pair:.1f}", f"{one.memory:.0f}"
        table.add_row(terminal_text(name), *numbers, f"{one.storage:.1f}")
    return table


def _lines(plan: AdaptationPlan, scorers: ScorerRecords, finished: int, failed: dict[str, str]) -> list[str]:
    loads = plan.loads.values()
    trained, responses = sum(load.trained for load in loads), sum(load.responses for load in loads)
    hours = ", ".join(f"{devices}: {plan.hours(devices):.2f}" for devices in DEVICES if devices <= len(plan.loads))
    disk = ", ".join(f"{kind} {size:.1f}" for kind, size in plan.disk.items())
    place = next(path for path in (scorers.folder.absolute(), *scorers.folder.absolute().parents) if path.is_dir())
    lines = [
        f"{counted(len(plan.loads), 'task')} to adapt, {finished} finished; {trained:,} training instances, "
        f"{responses:,} responses to choose among, {len(plan.trials)} scorers of each task",
        f"hours by the number of devices like this one (processes of torchrun, srun or a job array): {hours}",
        f"MiB of disk: {disk}; {_free(place):,.0f} are free at {place}",
    ]
    if failed:
        number = counted(len(failed), "task")
        lines.append(f"{number} cannot be adapted: {some(list(failed))}; {next(iter(failed.values()))}")
    return lines


def _free(place: Path) -> float:
    return shutil.disk_usage(place).free / 2**20
