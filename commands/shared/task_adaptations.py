"""Scorers trained for the tasks of a process, and the results of all tasks of a job."""

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from ...datamodules.benchmarks import Benchmark
from ...datamodules.packing.replicas import process_of_job
from ...datamodules.rouge import Rouge
from ...datamodules.scoring.samples import ModelSamples
from ...datamodules.visible_text import terminal_text
from ...lightning_modules.adaptation.scorer_records import OtherSettings, Record, ScorerRecords
from ...lightning_modules.scoring.calibration import checked_calibration
from ...lightning_modules.scoring.sampled_responses import SampledResponses, to_scored_responses
from ...lightning_modules.scoring.selection import ScoredResponses
from ...lightning_modules.scoring.selection_scores import selection_table
from .errors import is_disk_fault, is_ours


@dataclass
class AdaptedTasks:
    """Results of `crosstask adapt` on several tasks: responses with scores, costs and failures.

    Args:
        about: Settings and costs of each scorer, by its name.
        responses: Test instances of all tasks with their responses.
        scored: The responses with their scores, in the same order.
        failed: By the name of a task that failed, the reason.
        untested: Number of sampled test instances that were not tested.
        replaced: Whether an earlier report may be replaced: false if a task was finished with other settings.
    """

    about: dict[str, dict[str, Any]]
    responses: list[SampledResponses] = field(default_factory=list)
    scored: list[ScoredResponses] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    untested: int = 0
    replaced: bool = True


def adapt_share(
    names: Sequence[str], scorers: ScorerRecords, read: Callable[[str], list[SampledResponses]], console: Console
) -> AdaptedTasks:
    """Train the scorers of this process's share of the tasks, and return the results of all tasks.

    In a job of several processes, only the process that finishes the last task returns. It also has the failed tasks of
    all processes. The others exit with status 0, since torchrun and srun end a whole job when one process fails.

    Args:
        names: Names of the tasks of all processes.
        scorers: Trains the scorers of a task, and stores their scores and costs.
        read: Function that returns a task's test instances with their responses.
        console: Console to print to.

    Raises:
        SystemExit: Other processes are still training tasks.
    """
    process = process_of_job()
    (scorers.folder / "tasks").mkdir(parents=True, exist_ok=True)
    share = names[process.rank :: process.size]
    for name in share:  # a task that failed is tried again
        scorers.forget_failure(name)
    adapted = adapt_each(share, scorers, read, console)
    if process.size == 1:
        return adapted
    for name, reason in adapted.failed.items():
        scorers.keep_failure(name, reason)
    finished = [name for name in names if scorers.finished(name)]
    reasons = {name: scorers.failure(name) for name in names if name not in finished}
    failed = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(finished) + len(failed) < len(names):
        ended = f"{len(finished)} of {len(names)} tasks are finished" + (f", {len(failed)} failed" if failed else "")
        console.print(f"{ended}; the process that finishes the last one writes the report", highlight=False)
        sys.exit(0)
    adapted = adapt_each(finished, scorers, read, console)  # all are read
    adapted.failed |= failed
    return adapted


def adapt_each(
    names: Sequence[str], scorers: ScorerRecords, read: Callable[[str], list[SampledResponses]], console: Console
) -> AdaptedTasks:
    """Train the scorers of each task, or read the results of finished ones, and print a line for each task.

    Args:
        names: Names of the tasks.
        scorers: Trains the scorers of a task, and stores their scores and costs.
        read: Function that returns a task's test instances with their responses.
        console: Console to print to.
    """
    adapted = AdaptedTasks(
        {
            name: {"training": asdict(settings), "augmentation": augmented, "costs": {}}
            for name, (settings, augmented) in scorers.trainings.items()
        }
    )
    for number, name in enumerate(names, start=1):
        place = f"{number}/{len(names)} {name}"
        try:
            line = f"{place}: {_adapt_one(name, scorers, read, adapted)}"
            console.print(terminal_text(line), highlight=False)
        except Exception as error:
            if is_disk_fault(error):
                raise
            adapted.failed[name] = f"{type(error).__name__}: {error}"
            adapted.replaced = adapted.replaced and not isinstance(error, OtherSettings)
            if not is_ours(error):  # the sentence of our errors is enough
                traceback.print_exc()
            line = f"{place} failed: {adapted.failed[name]}"
            console.print(terminal_text(line), style="red", highlight=False)
    return adapted


def _adapt_one(
    name: str, scorers: ScorerRecords, read: Callable[[str], list[SampledResponses]], adapted: AdaptedTasks
) -> str:
    """Add the results of a task to `adapted`, and return its line of scores."""
    sampled = read(name)
    _require_rows(sampled, scorers.trainings)
    records = {scorer: scorers.record(name, sampled, scorer) for scorer in scorers.trainings}
    scored = scored_responses(sampled, records, rouge=scorers.rouge)
    line = _line(scored, records)
    untested = _untested(scorers.answers, name, sampled, scorers.train)
    for scorer, record in records.items():
        adapted.about[scorer]["costs"][name] = record["cost"]
    adapted.responses += sampled
    adapted.scored += scored
    adapted.untested += untested
    return line


def _untested(answers: ModelSamples, name: str, sampled: Sequence[SampledResponses], train: Benchmark) -> int:
    """Return the number of a task's sampled instances that are neither tested nor among the training instances."""
    tested = {one.prompt.example.id for one in sampled}
    return len(set(answers.samples(name)) - tested - {example.id for example in train.examples(name)})


def scored_responses(
    sampled: Sequence[SampledResponses], records: Mapping[str, Record], *, rouge: Rouge = "exact"
) -> list[ScoredResponses]:
    """Return the responses of a task with the scores and calibrations of all scorers.

    Args:
        sampled: Test instances with their responses.
        records: Results of each scorer on these instances, by its name.
        rouge: Implementation of ROUGE-L: ``exact``, ``rouge_score`` or ``unicode``.
    """
    scored = []
    for place, responses in enumerate(sampled):
        scores = {scorer: record["scores"][place] for scorer, record in records.items()}
        scored.append(
            to_scored_responses(
                responses,
                scores,
                ranked=[name for name, record in records.items() if record["settings"]["loss"] != "regression"],
                calibrations={
                    name: checked_calibration(record["calibration"])
                    for name, record in records.items()
                    if record["calibration"]
                },
                rouge=rouge,
            )
        )
    return scored


def _require_rows(sampled: Sequence[SampledResponses], names: Iterable[str]) -> None:
    """Reject scorers that have the name of a decoding, before they are trained."""
    to_scored_responses(sampled[0], {name: [0.0] * len(sampled[0].samples) for name in names})


def _line(scored: Sequence[ScoredResponses], records: Mapping[str, Record]) -> str:
    table = selection_table(scored, resamples=1)
    mean = dict(zip(table.methods, table.mean, strict=True))
    methods = [*records, table.best_single, "oracle"]
    seconds = sum(record["cost"]["seconds"] for record in records.values())
    return f"{', '.join(f'{name} {100 * mean[name]:.1f}' for name in methods)}; {seconds:.0f} s"
