"""Records of adapted scorers: one file per task and scorer, reused while the settings are the same."""

import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...datamodules.atomic_files import write_whole
from ...datamodules.benchmarks import Benchmark
from ...datamodules.data_files import read_json
from ...datamodules.packing.replicas import job_id
from ...datamodules.record_fields import number_field
from ...datamodules.rendering.prompts import PromptForm
from ...datamodules.rendering.tokenization import load_tokenizer, tokenizer_fingerprint
from ...datamodules.rouge import Rouge
from ...datamodules.scoring.instruction_truncation import instruction_cut
from ...datamodules.scoring.samples import ModelSamples
from ...datamodules.scoring.scorer_settings import pair_truncation
from ..huggingface_folder import export_huggingface
from ..model_digest import model_digest
from ..scoring.calibration import checked_calibration
from ..scoring.sampled_responses import SampledResponses, score_responses
from ..scoring.selection import SCORER
from .scorer_training import ScorerTraining
from .task_scorer import AdaptedScorer, adapt

Record = dict[str, Any]
"""A file's content: ``scores`` of all responses, ``calibration``, ``cost`` and ``settings``."""


class OtherSettings(ValueError):
    """Error for a task that was finished with other settings in the same folder."""


@dataclass(frozen=True)
class ScorerRecords:
    """Result files of ``crosstask adapt``, one per task and scorer; a missing one is made by training the scorer.

    Args:
        folder: Output folder: records are in ``tasks``, kept scorers in ``scorers``.
        train: Benchmark of the training instances.
        answers: The language model's responses to training and test instances.
        trainings: By scorer: its training settings, and whether it is trained on the responses, too.
        prompt: How examples are rendered as instructions.
        tested_apart: Whether test instances come from another benchmark than `train`.
        test_examples: Largest number of test instances of a task.
        seed: Seed of rendering.
        keep: Whether to keep the scorers' weights.
        cache: Folder of the store of tokenized documents.
        rouge: Implementation of ROUGE-L that labels the responses, as in the module's `rouge`.
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
    rouge: Rouge = "exact"

    def finished(self, task: str) -> bool:
        """Return whether the files of all scorers of a task exist."""
        return all(self._path(task, scorer).exists() for scorer in self.trainings)

    def failure(self, task: str) -> str | None:
        """Return the message with which a process of this job failed on a task; None if there is no such failure.

        Failures of earlier jobs do not count, since a process of this job may still adapt to the task.
        """
        try:
            text = self._failure_path(task).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        job, _, reason = text.partition("\n")
        return reason if job == job_id() else None

    def keep_failure(self, task: str, reason: str) -> None:
        """Write a file with this job's id and why a task failed; the process that writes the report reads it."""
        write_whole(self._failure_path(task), f"{job_id()}\n{reason}")

    def forget_failure(self, task: str) -> None:
        self._failure_path(task).unlink(missing_ok=True)

    def _failure_path(self, task: str) -> Path:
        return self.folder / "tasks" / f"{_plain(task)}.failed.txt"

    def _path(self, task: str, scorer: str) -> Path:
        return self.folder / "tasks" / f"{_file_name(task, scorer)}.json"

    def record(self, task: str, sampled: Sequence[SampledResponses], scorer: str) -> Record:
        """Return a scorer's scores for the responses to a task, with its calibration, its cost and its settings.

        They are read from the file of an earlier call; without one, the scorer is trained on the task and the file
        written.

        Args:
            task: Name of the task.
            sampled: The task's test instances with the language model's responses.
            scorer: Name of the scorer, a key of `trainings`.

        Raises:
            ValueError: The file has other settings, or the scorer cannot be trained.
        """
        path, kept = self._path(task, scorer), self.folder / "scorers" / _file_name(task, scorer)
        lines = self.training_answers(task, sampled)
        settings = self._settings(task, sampled, scorer, lines)
        record = _read_record(path, settings, sampled) if path.exists() else None
        if record is None or (self.keep and not kept.exists()):
            adapted = self._train(task, scorer, lines)
            record = scored_record(adapted, self.trainings[scorer][0], sampled) | {"settings": settings}
            if self.keep:
                export_huggingface(adapted.module, kept)
                if adapted.calibration:
                    adapted.calibration.save(kept)
            write_whole(path, json.dumps(record))
            # Trainer and module refer to each other, and the garbage collector does not see the bytes of their weights.
            del adapted
            gc.collect()
        return record

    def _settings(self, task: str, sampled: Sequence[SampledResponses], scorer: str, lines: Sequence[str]) -> Record:
        """Return the settings that determine a record; weights and tokenizer by their content, not their paths."""
        training, augmented = self.trainings[scorer]
        return {
            **asdict(training),
            "pretrained": training.pretrained and model_digest(training.pretrained),
            "tokenizer": tokenizer_fingerprint(load_tokenizer(training.tokenizer_name, eos=False))[:32],
            "augmentation": augmented,
            "test_examples": self.test_examples,
            "rouge": self.rouge,
            "prompt": self.prompt.fingerprint(),
            "rendering_seed": self.seed,
            "instances": self.train.fingerprint(task),
            "sampled": _digest(sampled),
            "answers": _digest(lines) if augmented or training.calibration_examples else None,
        }

    def _train(self, task: str, scorer: str, lines: Sequence[str]) -> AdaptedScorer:
        training, augmented = self.trainings[scorer]
        answers = self.folder / "tasks" / f"{_plain(task)}.samples.jsonl"
        write_whole(answers, "".join(lines))
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
            rouge=self.rouge,
        )

    def training_answers(self, task: str, sampled: Sequence[SampledResponses]) -> list[str]:
        """Return the language model's responses to a task's training instances, each as a line of a sample file.

        Args:
            task: Name of the task.
            sampled: Its test instances, whose responses are left out.

        Raises:
            ValueError: Training and test instances come from two benchmarks, and some have the same id.
        """
        tested = {one.prompt.example.id for one in sampled}
        examples = {example.id for example in self.train.examples(task)}
        if self.tested_apart and (shared := sorted(examples & tested)):
            raise ValueError(
                f"{len(shared)} of {len(tested)} test instances of {task} have the id of a training instance, e.g. "
                f"{shared[0]!r}, so that responses to them cannot be told apart: give `test` other instances, or leave "
                "it out, and the first test_examples of each task's file in `train` are held out"
            )
        trained = examples - tested
        samples = self.answers.samples(task).items()
        return [sample.line(task, id_) for id_, of_example in samples if id_ in trained for sample in of_example]


def _file_name(task: str, scorer: str) -> str:
    """Return the name of a task's and a scorer's files."""
    return _plain(task) if scorer == SCORER else f"{_plain(task)}.{scorer}"


def _plain(task: str) -> str:
    """Return a task's name as a file name."""
    return task.replace("/", "-").replace(":", "-")


def scored_record(adapted: AdaptedScorer, training: ScorerTraining, sampled: Sequence[SampledResponses]) -> Record:
    """Score responses with the scorer of their task; return scores, calibration and cost, as result files have them.

    Args:
        adapted: The scorer after its training on the task.
        training: Settings of this training.
        sampled: The task's test instances with the language model's responses.
    """
    truncation = pair_truncation(training.truncation, faithful=training.faithful)
    cut = instruction_cut(training.cut, faithful=training.faithful)
    encoder = adapted.module.cross_encoder(
        max_length=training.pair_length, truncation=truncation, cut=cut, chat=adapted.chat
    )
    return {
        "scores": score_responses(encoder, sampled),
        "calibration": adapted.calibration and adapted.calibration._asdict(),
        "cost": adapted.cost() | {f"selection_{name}": count for name, count in encoder.cuts._asdict().items()},
    }


def _digest(things: Sequence[Any]) -> str:
    """Return a digest of responses, or of lines."""
    return hashlib.sha256(repr(list(things)).encode()).hexdigest()[:16]


def _read_record(path: Path, settings: Mapping[str, Any], sampled: Sequence[SampledResponses]) -> Record:
    """Return the record in a file.

    Raises:
        OtherSettings: It was made with other settings.
        ValueError: It is no record.
    """
    try:
        record: Record = read_json(path)
        written = dict(record["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of `crosstask adapt` ({error}): remove it") from error
    wanted = json.loads(json.dumps(settings))
    if changed := [name for name, value in wanted.items() if written.get(name) != value]:
        differences = ", ".join(f"{name} {written.get(name)!r}, not {wanted[name]!r}" for name in changed)
        raise OtherSettings(f"{path} was made with {differences}: remove it, or choose another output")
    try:
        _require_scores(record, [len(one.samples) for one in sampled])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of `crosstask adapt` ({error}): remove it") from error
    return record


def _require_scores(record: Record, counts: Sequence[int]) -> None:
    """Reject a record without a finite score for each sample, or without costs and a calibration."""
    if [len(scores) for scores in record["scores"]] != list(counts):
        raise ValueError(f"scores should be those of {sum(counts)} samples")
    for scores in record["scores"]:
        for place in range(len(scores)):
            number_field({"score": scores[place]}, "score", -1e30, 1e30)
    for name in record["cost"]:
        number_field(record["cost"], name, 0, 1e30)
    if record["calibration"] is not None:
        checked_calibration(record["calibration"])
