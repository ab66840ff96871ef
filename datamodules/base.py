"""Base class of all datamodules: a benchmark's splits, a tokenizer, a training plan, and evaluation stages.

A subclass defines how examples are prepared, how the training is planned and how a stage is read. The interface for
modules and callbacks (``schema.RunData``) is implemented here.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from .benchmarks import Benchmark, Split
from .benchmarks.bench import Bench
from .benchmarks.own_data.file_tasks import as_benchmark
from .benchmarks.shared_sources import names_by_split
from .bilevel.bilevel_stream import BilevelBatch
from .evaluation.coverage import Coverage
from .messages import counted, some
from .packing.collate import RowBatch, pinned
from .packing.replicas import replicas
from .plans_and_stages import EvaluationStage, TrainingPlan
from .rendering.prompts import PromptForm
from .rendering.tokenization import tokenizer_fingerprint
from .schema import Description, EvaluationExample, HasLength, ReportLines, RunData, Stage, Task
from .splits import Instances
from .storage.preparation import Preparation
from .storage.prepared_starts import Start
from .stream_changes import ResumableStream, Stream, flat_settings
from .tracked_files import all_gone


class BenchmarkDataModule(ResumableStream):
    """Base class of this package's datamodules, which read training, validation and test batches from one benchmark.

    It also works without a trainer: ``prepare_data()``, ``setup("fit")``, ``train_dataloader()``.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        tokenizer: Hub name or folder of the tokenizer.
        prompt: How an example becomes a prompt.
        instances: How many instances of a task train, validate and test.
        seed: Seed of renderings, choice of instances, and order of training.
    """

    rows: HasLength
    plan: TrainingPlan | None
    epochs: float | None = None
    """Epochs to train instead of the trainer's ``max_steps``; None for ``max_steps``."""
    _stream: Any

    def __init__(
        self, benchmark: Benchmark | str, tokenizer: str, prompt: PromptForm, instances: Instances, seed: int
    ) -> None:
        super().__init__()
        self.benchmark, self.tokenizer_name, self.prompt = as_benchmark(benchmark), tokenizer, prompt
        self.instances, self.seed = instances, seed
        self.plan, self._stream = None, None
        self._description: Stream | None = None
        self._tasks: dict[str, Task] = {}
        self._start: Start | None = None
        self._preparation: Preparation | None = None
        self._stages: dict[Stage, EvaluationStage] = {}
        self._answered: dict[Stage, set[int]] = {"validation": set(), "test": set()}

    @abstractmethod
    def _prepare_how(self) -> Preparation:
        """Return the settings that decide how examples are rendered and tokenized."""

    @abstractmethod
    def _plan_training(self) -> TrainingPlan:
        """Return the plan of the training, from prepared data."""

    @abstractmethod
    def _read_stage(self, stage: Stage) -> EvaluationStage:
        """Return the evaluated examples of a stage."""

    @property
    def preparation(self) -> Preparation:
        """Settings that decide how examples are rendered and tokenized; the tokenizer is loaded on first use."""
        if self._preparation is None:
            self._preparation = self._prepare_how()
        return self._preparation

    def task_names(self) -> dict[Split, list[str]]:
        """Return the tasks of each split; without validation tasks, "validation" has the training tasks."""
        names, _ = self._split_names
        return {**names, "validation": names["validation"] or names["train"]}

    @cached_property
    def _split_names(self) -> tuple[dict[Split, list[str]], Mapping[str, str]]:
        if self._start is not None:
            names, shared = {split: list(of_split) for split, of_split in self._start.names.items()}, self._start.shared
        else:
            names, shared = names_by_split(self.benchmark, self.task)
        self.instances.require_collections(name for of_split in names.values() for name in of_split)
        return names, shared

    def task(self, name: str) -> Task:
        """Return a task of the benchmark; it is read once."""
        if name not in self._tasks:
            known = self._start.tasks if self._start is not None else {}
            self._tasks[name] = known.get(name) or self.benchmark.task(name)
        return self._tasks[name]

    def stage(self, stage: Stage) -> EvaluationStage:
        """Return the evaluated examples of a stage ("validation" or "test"), with their loaders; after ``setup``.

        Raises:
            ValueError: The stage has not been read.
        """
        if stage not in self._stages:
            call = 'setup("validate")' if stage == "validation" else 'setup("test")'
            raise ValueError(f"the {stage} examples are not read yet: call {call} first")
        return self._stages[stage]

    def stage_if_read(self, stage: Stage) -> EvaluationStage | None:
        """Return the evaluated examples of a stage ("validation" or "test") if ``setup`` has read them, else None."""
        return self._stages.get(stage)

    def holds_out(self, stage: Stage) -> bool:
        """Return whether validation, or test, has any instances to evaluate; tasks are read until one has some."""
        names = self.task_names()
        if stage in self._stages:
            return bool(self._stages[stage].examples)
        if any(name not in names["train"] and self._held_out(name)[stage] for name in names[stage]):
            return True  # a task with files of its own
        return any(self._held_out(name)[stage] and self._keeps_out(name, stage) for name in names[stage])

    def files_are_gone(self) -> bool:
        """Return whether none of the run's data files exists any more, while the store has what a run needs.

        Such a run starts from the stored, tokenized examples alone, e.g. on a machine that has only the store. False
        before ``prepare_data`` or ``setup``.
        """
        return self._start is not None and all_gone(self._start.read)

    def _held_out(self, name: str) -> dict[str, int]:
        """Return the numbers of instances that a task holds out by the settings."""
        names = self.task_names()
        return self.instances.held_out(name, validated=name in names["validation"], tested=name in names["test"])

    def _keeps_out(self, name: str, stage: Stage) -> bool:
        """Return whether a training task has instances for a stage; it may be too small for any."""
        if self.files_are_gone():
            return True
        names, examples = self.task_names(), self.benchmark.examples(name)
        split = self.preparation.split_instances(
            name, examples, trained=True, validated=name in names["validation"], tested=name in names["test"]
        )
        return bool(split.test if stage == "test" else split.validation)

    def setup(self, stage: str) -> None:
        """Plan the training ("fit"), or read the evaluated examples ("validate", "test", "predict").

        Raises:
            ValueError: The data is not prepared, or its rows cannot be divided among the devices.
        """
        if stage == "fit":
            for line in self.split_lines():
                rank_zero_info(line)
            self.plan, self._description = self._plan_training(), None
            self._count_steps()
            self.train_dataloader()  # rejects rows that cannot be divided before a model is built
        if self._validates(stage):
            self._open_stage("validation")
        if stage in ("test", "predict"):
            self._open_stage("test")

    def _validates(self, stage: str) -> bool:
        """Return whether a stage evaluates validation examples; a fit with ``limit_val_batches=0`` does not."""
        if not self.instances.validates or stage not in ("fit", "validate"):
            return False
        return stage == "validate" or self.trainer is None or self.trainer.limit_val_batches > 0

    def train_dataloader(self) -> Any:
        """Return this replica's training batches for the trainer's ``max_steps``, or for an epoch without a trainer."""
        self._stream = self._planned().stream(replicas(self.trainer), self._requested_steps())
        return self._stream

    @abstractmethod
    def step_examples(self) -> Callable[[], list[tuple[str, str]]]:
        """Return a function that returns (task, example id) of every example in the current step, of all replicas."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch on a device; rows are copied from pinned memory, so that the host does not wait."""
        if device.type == "cuda" and isinstance(batch, RowBatch | BilevelBatch):
            batch = pinned(batch)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def val_dataloader(self) -> Any:
        """Return the validation's batches: those of the loss, then those to answer; [] if no examples are held out."""
        if not self.instances.validates:
            return []
        return self.stage("validation").validation_loader(replicas(self.trainer), self._answered["validation"])

    def test_dataloader(self) -> Any:
        """Return the batches of the test."""
        return self.stage("test").loader(replicas(self.trainer), self._answered["test"])

    def predict_dataloader(self) -> Any:
        """Return the batches of the test."""
        return self.test_dataloader()

    def evaluation_examples(self, stage: Stage) -> Sequence[EvaluationExample]:
        """Return the examples that a stage evaluates, in the order of their numbers; after ``setup``."""
        return self.stage(stage).examples

    def evaluation_fingerprint(self, stage: Stage) -> dict[str, str] | None:
        """Return digests of a stage's prompts and batches; None if an interrupted evaluation cannot resume.

        Answers on disk are reused only if the digests are equal.
        """
        return self.stage(stage).fingerprint()

    def skip_examples(self, stage: Stage, numbers: Collection[int]) -> None:
        """Leave out the batches of a stage whose examples are all answered already, when an evaluation resumes.

        The other batches stay as they are, so that their answers are those of an evaluation of all examples.

        Args:
            stage: Stage that is evaluated, "validation" or "test".
            numbers: Numbers of the answered examples; every process must pass the same.
        """
        self._answered[stage].clear()
        self._answered[stage].update(numbers)

    def evaluation_coverage(self, stage: Stage, scored: Collection[int]) -> Coverage | None:
        """Return how much of a paper's table was scored, if the benchmark is such a table (``Suite``); otherwise None.

        Args:
            stage: Stage that was run.
            scored: Numbers of the examples that were scored.
        """
        return self.stage(stage).coverage(self.benchmark, scored)

    def training_fingerprint(self) -> str | None:
        """Return a digest of the first training rows; None before ``setup("fit")``."""
        return None if self.plan is None else self.plan.fingerprint()

    def stream_settings(self) -> dict[str, Any]:
        """Return the arguments that decide the order and form of the training batches, as plain values by dotted name.

        A resumed run compares them with those of its checkpoint.
        """
        tokenizer = self.preparation.tokenizer
        trained = {name: value for name, value in asdict(self.instances).items() if name != "validation_prompts"}
        return flat_settings(
            tokenizer=f"one of {len(tokenizer)} tokens ({tokenizer_fingerprint(tokenizer)[:12]})",
            prompt=repr(self.prompt),
            rows=self.rows,
            instances=trained,
            seed=self.seed,
        )

    def training_stream(self) -> Stream | None:
        """Return settings and digests that identify the sequence of training batches, to compare when a run resumes.

        They are computed once; None before ``setup("fit")``.
        """
        if self._description is None and self.plan is not None:
            plan = self.plan
            self._description = {
                "settings": self.stream_settings(),
                "tasks": plan.contents(),
                "beginning": plan.fingerprint(),
            }
        return self._description

    def report(self) -> ReportLines:
        """Return the numbers of one epoch of training (tasks, instances, steps ...); after ``setup("fit")``."""
        return self._planned().report()

    def describe(self, steps: int | None = None) -> Description:
        """Return how often each task is drawn in training, as a tree to print; after ``setup("fit")``.

        Args:
            steps: Optimizer steps; None for the trainer's ``max_steps``, or for an epoch without a trainer.
        """
        return self._planned().describe(self._requested_steps() if steps is None else steps)

    def split_lines(self) -> list[str]:
        """Return sentences to print on which tasks train and are evaluated, what is left out, and unread files."""
        if self._start is not None:
            return list(self._start.lines)
        unread = self.benchmark.unread_lines()
        if isinstance(self.benchmark, Bench):
            return [*self.benchmark.split.lines(), *unread]
        _, shared = self._split_names
        sources = some([f"{name} ({why})" for name, why in shared.items()])
        number = counted(len(shared), "task does", "tasks do")
        lines = [f"{number} not train, since evaluated tasks share its sources: {sources}"] if shared else []
        left_out = self.benchmark.left_out()
        names_of = {reason: [name for name in left_out if left_out[name] == reason] for reason in left_out.values()}
        lines += [
            f"{counted(len(names), 'dataset is', 'datasets are')} left out, {reason}: {some(names)}"
            for reason, names in names_of.items()
        ]
        return [*lines, *unread]

    def _planned(self) -> TrainingPlan:
        if self.plan is None:
            raise ValueError('there is no training plan yet: call prepare_data() and setup("fit") first')
        return self.plan

    def _count_steps(self) -> None:
        """Set the trainer's ``max_steps`` to the optimizer steps of `epochs`.

        Raises:
            ValueError: Both are given.
        """
        if self.epochs is None or self.trainer is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        steps = self._epoch_steps()
        if self.trainer.max_steps not in (-1, steps):
            raise ValueError(
                f"epochs = {self.epochs:g} are {counted(steps, 'step')} and trainer.max_steps is "
                f"{self.trainer.max_steps}: give one of them (--trainer.max_steps -1 takes back that of a recipe)"
            )
        self.trainer.fit_loop.epoch_loop.max_steps = steps
        rank_zero_info(f"epochs = {self.epochs:g}: {counted(steps, 'optimizer step')}")

    def _epoch_steps(self) -> int:
        """Return the optimizer steps of `epochs`, or of one epoch; a part of a step counts as one."""
        return self._planned().epoch_steps(self.epochs or 1.0)

    def _requested_steps(self) -> int:
        plan = self._planned()
        if self.trainer is None:
            return self._epoch_steps()
        plan.require_steps(self.trainer.max_steps)
        return self.trainer.max_steps

    def _open_stage(self, stage: Stage) -> None:
        self._stages[stage] = self._read_stage(stage)
        for reason, count in self._stages[stage].skipped.items():
            rank_zero_info(f"not evaluated: {counted(count, f'{stage} example')}, {reason}")

    def _save_arguments(self, **arguments: Any) -> None:
        """Save the plain values among the constructor's arguments as ``hparams``, groups as dictionaries.

        They are not logged: a module's `seed` may differ from its datamodule's, which Lightning's loggers reject.
        """
        plain = {name: _plain(value) for name, value in arguments.items()}
        self.save_hyperparameters({name: value for name, value in plain.items() if value is not _OBJECT}, logger=False)


_OBJECT = object()


def _plain(value: Any) -> Any:
    """Return numbers, texts, lists and dictionaries, and paths as texts; `_OBJECT` for anything else."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: each for name, part in asdict(value).items() if (each := _plain(part)) is not _OBJECT}
    if isinstance(value, dict):
        return {str(name): each for name, part in value.items() if (each := _plain(part)) is not _OBJECT}
    if isinstance(value, list | tuple):
        return [each for part in value if (each := _plain(part)) is not _OBJECT]
    if isinstance(value, Path):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else _OBJECT


def run_data(trainer: L.Trainer) -> RunData | None:
    """Return the trainer's datamodule if it has this package's interface ``RunData``; otherwise None.

    Callbacks and modules call it, which also run with a datamodule of another package or with none.
    """
    # Lightning sets the attribute only if a datamodule is given.
    datamodule = getattr(trainer, "datamodule", None)
    return datamodule if isinstance(datamodule, RunData) else None
