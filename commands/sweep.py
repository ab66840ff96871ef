"""Train and evaluate the arms of an experiment, and report them side by side, with a paper's scores.

A sweep is a YAML that lists arms: changes of a recipe's settings. Each arm is trained and evaluated in its own folder.
An interrupted sweep resumes when the command is run again. The ablations of OPT-IML are in papers/ablations.

Example:
    crosstask sweep papers/ablations/proportions --model facebook/opt-1.3b --output runs/proportions
    crosstask sweep papers/ablations/proportions --model facebook/opt-1.3b --output runs/proportions --write_only
    sbatch --array 1-10 --gpus-per-node 8 configs/slurm/ablations.sbatch runs/proportions
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..callbacks.report.comparison import SystemsReport
from ..callbacks.report.published_scores import PublishedComparison, compare_with_published, published_lines
from ..callbacks.report.systems import read_system, systems_report
from ..datamodules.atomic_files import write_whole
from ..datamodules.messages import counted, expanded, some
from .report import write_report_files
from .shared.function_command import run_function
from .shared.outputs import require_own_report
from .shared.sweep_collections import require_arm_collections
from .shared.sweep_declarations import Sweep, read_sweep
from .shared.sweep_runs import SweepRun, sweep_runs, train_and_evaluate, write_run


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(run_sweep, words)


def run_sweep(
    sweep: list[str],
    output: str,
    recipe: str | None = None,
    model: str | None = None,
    settings: Sequence[str] = (),
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    write_only: bool = False,
) -> None:
    """Train and evaluate the arms (variants of a recipe) of a sweep, one after another, and report them side by side.

    Args:
        sweep: YAML that declares the sweep, by path or by name; exactly one.
        output: Folder of the runs, and of report.html, report.md and report.json.
        recipe: YAML of `crosstask fit` in place of the sweep's, by path or by name, e.g. that of a smaller model.
        model: Hub name or folder of the pretrained model; by default the recipe's.
        settings: YAML files, by path or by name, whose settings override the recipe's in all arms.
        seeds: Seeds, one for each repetition of an arm; if empty, each arm is run once with the recipe's seeds.
        arms: Names of the arms to run; if empty, all.
        write_only: Only write the recipes, and runs.txt, the list of their folders, for a job of a cluster.

    Raises:
        ValueError: There is no such sweep or arm, a collection of an arm has no files, the folder has other results, or
            a run failed. After a failure, the other runs are finished and reported first.
    """
    if len(sweep) != 1:
        raise ValueError(f"name one sweep, got {some(sweep)}")
    declared, home = read_sweep(sweep[0], recipe), expanded(output).absolute()
    require_own_report(home, ("systems", "comparisons"), "sweep")
    runs = sweep_runs(declared, home, model=model, configs=settings, seeds=seeds, arms=arms)
    if not write_only:  # a cluster may have the files
        require_arm_collections(declared, runs)
    for each in runs:
        write_run(each)
    write_whole(home / "runs.txt", "".join(f"{each.folder}\n" for each in runs))
    if write_only:
        print(f"{counted(len(runs), 'run')} in {home / 'runs.txt'}")
        return
    failures = _run_all(runs)
    _report(declared, runs, home)
    if failures:
        raise ValueError(f"{len(failures)} of {len(runs)} runs failed: {failures[0]}")


def _run_all(runs: Sequence[SweepRun]) -> list[str]:
    """Train and evaluate all runs that are not finished, and return the messages of those that failed."""
    failures = []
    for number, each in enumerate(runs, start=1):
        state = "is finished" if each.is_evaluated else "trains"
        print(f"{number} of {len(runs)}: {each.arm} {state} ({each.folder})", flush=True)
        try:
            if not each.is_evaluated:
                train_and_evaluate(each)
        except ValueError as error:
            print(error, flush=True)
            failures.append(str(error))
    return failures


def _report(sweep: Sweep, runs: Sequence[SweepRun], home: Path) -> None:
    """Write the report of the arms whose runs are all evaluated; the others are compared with the first."""
    by_arm: dict[str, list[SweepRun]] = {}
    for each in runs:
        by_arm.setdefault(each.arm, []).append(each)
    finished = {arm: of_arm for arm, of_arm in by_arm.items() if all(each.is_evaluated for each in of_arm)}
    if not finished:
        return
    folders = {arm: [Path(os.path.relpath(each.folder)) for each in of_arm] for arm, of_arm in finished.items()}
    systems = [read_system(arm, of_arm, sweep.stage) for arm, of_arm in folders.items()]
    report = systems_report(systems, stage=sweep.stage, by=sweep.by)
    published = _published(sweep, report)
    write_report_files(report, home, sweep.title, published)
    if left := [arm for arm in by_arm if arm not in finished]:
        print(f"not in the report, since they are not evaluated: {some(left)}")
    if published is not None:
        lines = [f"# {sweep.title}", "", *published_lines(published)]
        write_whole(home / "published.md", "\n".join(lines) + "\n")
        write_whole(home / "published.json", json.dumps([asdict(score) for score in published.scores], indent=1) + "\n")
        print(home / "published.md")
    print(home / "report.html")


def _published(sweep: Sweep, report: SystemsReport) -> PublishedComparison | None:
    if sweep.published is None:
        return None
    return PublishedComparison(sweep.published.source, compare_with_published(sweep.published, report.systems))
