"""The scorers of ``crosstask adapt``: trained once, found again by their settings, a file for each task and scorer."""

import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...datamodules.benchmarks import Benchmark
from ...datamodules.rendering.prompts import PromptForm
from ...datamodules.scoring.samples import ModelSamples
from ..huggingface_folder import export_huggingface
from ..scoring.sampled_responses import SampledResponses, score_responses
from ..scoring.selection import SCORER
from .scorer_training import ScorerTraining
from .task_scorer import AdaptedScorer, adapt

Record = dict[str, Any]
"""What a task's file says of a scorer: ``scores`` of all responses, ``calibration``, ``cost`` and ``settings``."""


@dataclass(frozen=True)
class ScorerRecords:
    """What is known of tasks and scorers, which are trained where nothing is.

    Args:
        folder: Of the files, in ``tasks``, and of scorers that are kept, in ``scorers``.
        train: Benchmark of the training instances.
        answers: The language model's answers to training and test instances.
        trainings: How each scorer is trained, and whether on the answers, too, by the scorer's name.
        prompt: How instructions are rendered.
        tested_apart: Whether the test instances are none of `train`.
        test_examples: Most test instances of a task.
        seed: Decides how instructions read.
        keep: Whether to keep the scorers themselves.
        cache: Folder of the store.
    """

    folder: Path
    train: Benchmark
    answers: ModelSamples
    trainings: Mapping[str, tuple[ScorerTraining, bool]]
    prompt: PromptForm
    tested_apart: bool
    test_examples: int
    seed: int
    keep: bool
    cache: str

    def record(self, task: str, sampled: Sequence[SampledResponses], scorer: str) -> Record:
        """What is known of a task and a scorer.

        Raises:
            ValueError: It was made with other settings, or the scorer cannot be trained.
        """
        file = _plain(task) if scorer == SCORER else f"{_plain(task)}.{scorer}"
        path, kept = self.folder / "tasks" / f"{file}.json", self.folder / "scorers" / file
        lines = self._training_answers(task, sampled)
        settings = self._settings(task, sampled, scorer, lines)
        record = _read_record(path, settings) if path.exists() else None
        if record is None or (self.keep and not kept.exists()):
            found = self._train(task, scorer, lines)
            record = _scored(found, self.trainings[scorer][0], sampled) | {"settings": settings}
            if self.keep:
                export_huggingface(found.module, kept)
                if found.calibration:
                    found.calibration.save(kept)
            path.with_suffix(".part").write_text(json.dumps(record))
            path.with_suffix(".part").replace(path)  # a run that is killed leaves a whole file, or none
            # Trainer and module refer to each other, and the collector counts objects, not the bytes of their weights.
            del found
            gc.collect()
        return record

    def _settings(self, task: str, sampled: Sequence[SampledResponses], scorer: str, lines: Sequence[str]) -> Record:
        """All that decides a record."""
        training, augmented = self.trainings[scorer]
        return {
            **asdict(training),
            "augmentation": augmented,
            "test_examples": self.test_examples,
            "prompt": self.prompt.fingerprint(),
            "rendering_seed": self.seed,
            "instances": self.train.fingerprint(task),
            "sampled": _digest(sampled),
            "answers": _digest(lines) if augmented or training.calibration_examples else None,
        }

    def _train(self, task: str, scorer: str, lines: Sequence[str]) -> AdaptedScorer:
        training, augmented = self.trainings[scorer]
        answers = self.folder / "tasks" / f"{_plain(task)}.samples.jsonl"
        answers.write_text("".join(lines), encoding="utf-8")
        return adapt(
            self.train,
            task,
            training,
            prompt=self.prompt,
            samples=[str(answers)] if lines else [],
            augmentation=augmented,
            test_examples=0 if self.tested_apart else self.test_examples,
            rendering_seed=self.seed,
            cache=self.cache,
        )

    def _training_answers(self, task: str, sampled: Sequence[SampledResponses]) -> list[str]:
        """The answers to a task's training instances, a line each; answers to what is tested stay out."""
        tested = {each.prompt.example.id for each in sampled}
        known = {example.id for example in self.train.examples(task)} - tested
        drawn = self.answers.samples(task).items()
        return [sample.line(task, example) for example, own in drawn if example in known for sample in own]


def _plain(task: str) -> str:
    """A task's name as a file's."""
    return task.replace("/", "-").replace(":", "-")


def _scored(found: AdaptedScorer, training: ScorerTraining, sampled: Sequence[SampledResponses]) -> Record:
    """The responses' scores by a scorer, and what it cost."""
    encoder = found.module.cross_encoder(max_length=training.pair_length, truncation=training.truncation)
    return {
        "scores": score_responses(encoder, sampled),
        "calibration": found.calibration and found.calibration._asdict(),
        "cost": found.cost() | {"cut_responses": encoder.cuts.cut},
    }


def _digest(things: Sequence[Any]) -> str:
    """Tells one set of responses, or of answers, from another."""
    return hashlib.sha256(repr(list(things)).encode()).hexdigest()[:16]


def _read_record(path: Path, settings: Mapping[str, Any]) -> Record:
    """What is known of a task that is done.

    Raises:
        ValueError: It was done with other settings.
    """
    record: Record = json.loads(path.read_text())
    wanted = json.loads(json.dumps(settings))
    if differ := [name for name, value in wanted.items() if record["settings"].get(name) != value]:
        there = ", ".join(f"{name} {record['settings'].get(name)!r}, not {wanted[name]!r}" for name in differ)
        raise ValueError(f"{path} was made with {there}: remove it, or choose another output")
    return record
