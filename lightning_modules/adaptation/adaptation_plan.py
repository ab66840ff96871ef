"""Estimate of an adaptation to many tasks before it runs: time, memory and disk, from a trial on one task.

The trial trains each scorer for a few steps on the task with the longest pairs, on this process's device, and scores
some responses. The time of other tasks is proportional to the length of their pairs; memory is that of the trial.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from ..scoring.sampled_responses import SampledResponses
from .scorer_records import ScorerRecords, scored_record
from .scorer_training import ScorerTraining
from .task_scorer import AdaptedScorer, adapt

TRIAL_STEPS, TRIAL_EXAMPLES = 4, 100
"""Steps that are timed, after a first one, and training instances that they read."""

RECORD_BYTES = 22
"""Bytes of a score in a record."""


class TaskLoad(NamedTuple):
    """Amounts that decide how long adapting a scorer to a task takes: instances, responses and lengths of texts.

    Args:
        trained: Number of training instances.
        responses: Number of responses to test instances.
        length: Mean number of characters of an instruction with a response.
        text: Bytes of the test instances' instructions and responses.
    """

    trained: int
    responses: int
    length: float
    text: int


class Trial(NamedTuple):
    """Measured time, memory and disk of training one scorer on the task with the longest (instruction, response) pairs.

    Args:
        prepare: Seconds to prepare the pairs of a training instance.
        start: Seconds from the prepared pairs to the first step, in which weights are loaded.
        step: Seconds of a training step.
        pair: Seconds to score a pair.
        memory: Peak memory in MiB: of the device on CUDA, else of the process.
        storage: MiB of the weights.
        stored: Bytes in the store for each training instance.
    """

    prepare: float
    start: float
    step: float
    pair: float
    memory: float
    storage: float
    stored: float


class AdaptationPlan(NamedTuple):
    """Estimated time and disk space of adapting scorers to the tasks that are not finished yet.

    Args:
        loads: Sizes of the tasks, by name.
        trials: Measured costs of the scorers, by name.
        seconds: Seconds for each task with all scorers, on a device like this one.
        disk: MiB on disk by kind: store, records, choices, scorers.
    """

    loads: dict[str, TaskLoad]
    trials: dict[str, Trial]
    seconds: dict[str, float]
    disk: dict[str, float]

    def hours(self, devices: int) -> float:
        """Return the hours until the last device ends, if each of `devices` takes every `devices`-th task."""
        seconds = list(self.seconds.values())
        return max(sum(seconds[rank::devices]) for rank in range(devices)) / 3600


def task_load(trained: int, sampled: Sequence[SampledResponses]) -> TaskLoad:
    """Return the numbers that decide how long adapting a scorer to a task takes.

    Args:
        trained: Number of the task's training instances.
        sampled: Its test instances with the language model's responses.
    """
    pairs = [(len(one.prompt.source), len(sample.response)) for one in sampled for sample in one.samples]
    text = sum(len(one.prompt.source.encode()) for one in sampled)
    text += sum(len(sample.response.encode()) for one in sampled for sample in one.samples)
    return TaskLoad(trained, len(pairs), fmean(map(sum, pairs)), text)


def plan_adaptation(
    loads: Mapping[str, TaskLoad], trials: Mapping[str, Trial], trainings: Mapping[str, ScorerTraining], *, keep: bool
) -> AdaptationPlan:
    """Estimate time and disk space of adapting to tasks, from each scorer's measured costs on one of them.

    Args:
        loads: Sizes of the tasks, by name.
        trials: Measured costs of the scorers, by name.
        trainings: Training settings of the scorers, by name.
        keep: Whether the weights of all scorers are kept.
    """
    longest = max(load.length for load in loads.values())

    def seconds(load: TaskLoad) -> float:
        share = load.length / longest
        return sum(
            one.start
            + share * (one.prepare * load.trained + one.step * trainings[name].steps + one.pair * load.responses)
            for name, one in trials.items()
        )

    every = list(loads.values())
    scores = RECORD_BYTES * len(trials) * sum(load.responses for load in every)
    bytes_by_kind = {
        "store of pairs": sum(one.stored * load.trained for one in trials.values() for load in every),
        "records": scores,
        "choices": sum(load.text for load in every) + 5 * scores,  # each response with its scores, votes and names
    }
    disk = {kind: size / 2**20 for kind, size in bytes_by_kind.items()}
    if keep:
        disk["scorers"] = len(loads) * sum(one.storage for one in trials.values())
    return AdaptationPlan(dict(loads), dict(trials), {name: seconds(load) for name, load in loads.items()}, disk)


def trials_on(task: str, scorers: ScorerRecords, sampled: Sequence[SampledResponses]) -> dict[str, Trial]:
    """Measure each scorer's costs: train it on a task for a few steps, and score the task's responses.

    Files are written to a temporary folder only.

    Args:
        task: Name of the task.
        scorers: Settings of the scorers and the benchmark of their training instances.
        sampled: The task's test instances with the language model's responses.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answers = Path(scratch) / "samples.jsonl"
        answers.write_text("".join(scorers.training_answers(task, sampled)))
        return {
            scorer: _trial(task, scorers, scorer, sampled, answers, Path(scratch) / f"store_{number}")
            for number, scorer in enumerate(scorers.trainings)
        }


def _trial(
    task: str, scorers: ScorerRecords, scorer: str, sampled: Sequence[SampledResponses], answers: Path, store: Path
) -> Trial:
    training, augmented = scorers.trainings[scorer]
    few = min(training.train_examples, TRIAL_EXAMPLES)

    def trained(steps: int) -> AdaptedScorer:
        return adapt(
            scorers.train,
            task,
            replace(training, steps=steps, train_examples=few, calibration_examples=0),
            prompt=scorers.prompt,
            samples=[str(answers)],
            augmentation=augmented,
            test_examples=0 if scorers.tested_apart else scorers.test_examples,
            rendering_seed=scorers.seed,
            cache=str(store),
            rouge=scorers.rouge,
        )

    first, unprepared = _timed(partial(trained, 1))
    adapted, prepared = _timed(partial(trained, 1 + TRIAL_STEPS))
    began = time.perf_counter()
    pairs = scored_record(adapted, training, sampled)["cost"]["selection_pairs"]
    pair = (time.perf_counter() - began) / max(pairs, 1)
    start = prepared - adapted.seconds
    return Trial(
        prepare=max(unprepared - first.seconds - start, 0.0) / few,
        start=start,
        step=max(adapted.seconds - first.seconds, 0.0) / TRIAL_STEPS,
        pair=pair,
        memory=adapted.memory,
        storage=adapted.storage,
        stored=sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) / few,
    )


def _timed(train: Callable[[], AdaptedScorer]) -> tuple[AdaptedScorer, float]:
    """The scorer that a training returns, and the training's seconds."""
    gc.collect()  # weights of an earlier one
    began = time.perf_counter()
    return train(), time.perf_counter() - began
