"""The LightningDataModule of instruction tuning: a benchmark's tasks as packed rows, and prompts to answer."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from .benchmarks import Benchmark, Split
from .benchmarks.bench import Bench
from .benchmarks.suite import Suite
from .evaluation.coverage import Coverage, suite_coverage
from .evaluation.evaluation_set import EvaluationSet, read_evaluation
from .evaluation.few_shot import FewShotPreparation, few_shot_preparation
from .evaluation.loaders import ChainedLoader, EvaluationLoaders, longest_source
from .evaluation.options import OptionRanking
from .messages import some
from .mixture.draws import WINDOW, Mixture
from .mixture.mixture_report import MixtureReport, mixture_report
from .mixture.rates import ExtraStream, MixtureRules, TaskSize, task_rates
from .packing.best_fit import Packing, best_fit, in_order, one_per_row
from .packing.collate import RowKind
from .packing.document_groups import Groups
from .packing.packing_report import PackingReport, packing_report
from .packing.replicas import replicas
from .packing.train_stream import TrainPlan, TrainStream
from .rendering.demonstrations import Demonstrations
from .rendering.prompts import OptImlPrompt, PromptForm
from .rendering.tokenization import load_tokenizer
from .schema import EvaluationExample, Task
from .storage.parallel_preparation import Job, Prepared, prepare_tasks
from .storage.preparation import InstanceCounts, Preparation
from .storage.store import StoredTask, read_meta
from .storage.stored_tasks import StoredTasks, open_tasks

PACKINGS: dict[str, Packing] = {"best_fit": best_fit, "in_order": in_order, "one_per_row": one_per_row}
Stage = Literal["validation", "test"]


class InstructionTuningDataModule(L.LightningDataModule):
    """Packed training rows and evaluation prompts from one benchmark.

    Training examples are rendered and tokenized once, into a store on disk; a mixture decides which is drawn when, and
    whole documents share rows. A task in the training and in the test split is tested on instances that are never
    trained. It works without a trainer, too: ``prepare_data()``, ``setup("fit")``, ``train_dataloader()``.

    Args:
        benchmark: Reader of the benchmark's files.
        tokenizer: Hub name or folder of the tokenizer; on the command line, empty for that of the model's `pretrained`.
        prompt: How examples are rendered, in training and evaluation alike.
        row_length: Columns of a row; for an encoder-decoder model, of its encoder's rows.
        target_length: Columns of a decoder row for an encoder-decoder model; leave it out for a decoder-only model.
        rows_per_step: Rows of one optimizer step over all devices and accumulated batches.
        cap: Most examples of a task that count towards its mixing rate (EPS in OPT-IML); all where it is left out.
        proportions: Share of the examples of each collection of a ``Bench``; those not named share what is left.
        extra: Collections mixed in beside them, with a share of their own: pre-training text, reasoning, dialogue.
        temperature: Above 1, rates within a collection are flatter than sizes.
        uniform_categories: Whether the categories of a collection are drawn equally often.
        absent: Whether the share of a collection that is named and has no training tasks is refused, or shared by the
            others.
        packing: best_fit fills rows, in_order opens a new row for a document that does not fit, one_per_row pads.
        train_examples: Most training examples of a task, a random choice.
        train_examples_of: Most of a task of some collections of a ``Bench``, e.g. 30,000 for FLAN, as OPT-IML has it.
        validation_examples: Examples a validation task holds out, or 0; without a list of validation tasks, of every
            training task.
        validation_prompts: Most prompts of a validation task, where templates make several of an example.
        test_examples: Examples of a test task: the first ones of its file, in all their templates.
        demonstrations: Show solved examples in training prompts (MetaICL); none are shown where it is left out.
        shots: Solved examples before each evaluated one, as many of them as fit; a list asks everything at each number.
        shot_separator: What stands between them.
        max_new_tokens: Longest answer at evaluation.
        evaluation_tokens: Most tokens of an evaluation batch, answers included.
        ranking: Rank the options of examples that have them; all examples are answered in writing where it is left out.
        bos: Whether a decoder-only document begins with the tokenizer's bos token.
        cache: Folder of the store.
        processes: Processes that prepare what the store lacks; ``crosstask prepare`` does it ahead of training.
        seed: Decides renderings, instances, mixture and packing.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        tokenizer: str,
        prompt: PromptForm = OptImlPrompt(),  # noqa: B008 - frozen
        row_length: int = 2048,
        target_length: int | None = None,
        rows_per_step: int = 256,
        cap: int | None = None,
        proportions: dict[str, float] | None = None,
        extra: dict[str, ExtraStream] | None = None,
        temperature: float = 1.0,
        uniform_categories: bool = False,
        absent: Literal["rejected", "shared"] = "rejected",
        packing: Literal["best_fit", "in_order", "one_per_row"] = "best_fit",
        train_examples: int = 100_000,
        train_examples_of: dict[str, int] | None = None,
        validation_examples: int = 10,
        validation_prompts: int = 250,
        test_examples: int = 100,
        demonstrations: Demonstrations | None = None,
        shots: int | list[int] = 0,
        shot_separator: str = "\n\n",
        max_new_tokens: int = 256,
        evaluation_tokens: int = 32_768,
        ranking: OptionRanking | None = None,
        bos: bool = False,
        cache: str = "~/.cache/crosstask",
        processes: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.benchmark, self.prompt, self.tokenizer_name = benchmark, prompt, tokenizer
        self.row_length, self.target_length = row_length, target_length
        self.rows_per_step, self.packing = rows_per_step, PACKINGS[packing]
        self.rules = MixtureRules(cap, proportions, extra, temperature, uniform_categories, absent)
        self.max_new_tokens, self.evaluation_tokens, self.ranking = max_new_tokens, evaluation_tokens, ranking
        self.counts = InstanceCounts(
            validation_examples, test_examples, train_examples, seed, validation_prompts, train_examples_of or {}
        )
        self.demonstrations, self.shot_separator = demonstrations, shot_separator
        self.shots = tuple(shots) if isinstance(shots, Sequence) else (shots,)
        self.bos, self.seed, self.cache = bos, seed, Path(cache).expanduser()
        self.source_length = longest_source(row_length, target_length, max_new_tokens)
        self.processes, self.prepared = processes, Prepared(0, 0, 0)
        self.plan: TrainPlan | None = None
        self._tasks: dict[str, Task] = {}
        self._folders: dict[tuple[object, ...], Path] = {}
        self._sizes: list[TaskSize] = []
        self._preparation: Preparation | None = None
        self._evaluation: dict[Stage, EvaluationSet] = {}
        self._answered: dict[Stage, set[int]] = {"validation": set(), "test": set()}
        if not self.shots or min(self.shots) < 0 or len(set(self.shots)) < len(self.shots):
            raise ValueError(f"shots must be at least 0 and different numbers, got {shots}")

    @property
    def preparation(self) -> Preparation:
        """What decides how an example becomes a document; the tokenizer is loaded on first use."""
        if self._preparation is None:
            tokenizer = load_tokenizer(self.tokenizer_name)
            pair = self.target_length is not None
            self._preparation = Preparation(
                self.benchmark,
                self.prompt,
                tokenizer,
                pair,
                self.bos,
                self.counts,
                self.cache,
                demonstrations=self.demonstrations,
            )
        return self._preparation

    @property
    def row_kind(self) -> RowKind:
        """What a row of this model holds."""
        return self.evaluation_loaders.row_kind

    @property
    def evaluation_loaders(self) -> EvaluationLoaders:
        """Builds the dataloaders of what is evaluated."""
        return EvaluationLoaders(
            self.preparation,
            self.packing,
            self.row_length,
            self.target_length,
            self.max_new_tokens,
            self.evaluation_tokens,
            self.ranking,
        )

    def prepare_data(self) -> None:
        """Render and tokenize the training tasks that the store lacks, over `processes`."""
        names = self._task_names()
        jobs = [Job(name, **self._held_out(name, names)) for name in names["train"]]
        self._folders.clear()
        self.prepared = prepare_tasks(self.preparation, jobs, processes=self.processes)
        self._stored(names)  # joins what every process will map

    def setup(self, stage: str) -> None:
        """Open the store and plan the training stream; read and render what is evaluated."""
        names = self._task_names()
        if stage == "fit":
            for line in self.split_lines():
                rank_zero_info(line)
            self._plan_training(names)
            self.train_dataloader()  # refuses what cannot be dealt, before a model is built
        if stage in ("fit", "validate") and self.counts.validation:
            self._read_evaluation("validation", names)
        if stage in ("test", "predict"):
            self._read_evaluation("test", names)

    def train_dataloader(self) -> TrainStream:
        """This replica's packed batches, as many as the requested optimizer steps need."""
        return TrainStream(self._planned(), replicas(self.trainer), self._requested_steps())

    def val_dataloader(self) -> ChainedLoader | list[ChainedLoader]:
        """Packed rows for the loss, then prompts to answer; nothing where no examples are held out."""
        if not self.counts.validation:
            return []
        rows = self.evaluation_loaders.loss_loader(self._evaluation["validation"], replicas(self.trainer))
        return ChainedLoader(rows, self._evaluation_loader("validation"))

    def test_dataloader(self) -> ChainedLoader:
        """Options to rank where that is wanted, then prompts to answer, the longest first."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> ChainedLoader:
        """What the test asks."""
        return self._evaluation_loader("test")

    def evaluation_examples(self, stage: Stage) -> Sequence[EvaluationExample]:
        """Everything that is asked in a stage, by index; call it after ``setup``."""
        return self._evaluation[stage].examples

    def skip_examples(self, stage: Stage, numbers: Collection[int]) -> None:
        """Do not ask a stage's batches whose examples are all among these numbers; every process says the same ones.

        Batches stay whole and as they are, so that the others' answers are those of a run that asks everything.
        """
        self._answered[stage].clear()
        self._answered[stage].update(numbers)

    def evaluation_fingerprint(self, stage: Stage) -> dict[str, str]:
        """What decides the prompts of a stage and their batches, beside the model. See ``PredictionWriter``."""
        return self.evaluation_loaders.fingerprint(self._evaluation[stage])

    def evaluation_coverage(self, stage: Stage, scored: Collection[int]) -> Coverage | None:
        """What of a suite's listed tasks was run; None where the benchmark lists none, or candidates are scored.

        Args:
            stage: What was run.
            scored: Numbers of the examples that were answered.
        """
        found = self._evaluation.get(stage)
        if found is None or not isinstance(self.benchmark, Suite):
            return None
        return suite_coverage(self.benchmark, found.examples, found.rows, found.available or {}, scored)

    def report(self) -> PackingReport:
        """What one epoch of training looks like; call it after ``setup("fit")``."""
        return packing_report(self._planned(), self._epoch())

    def describe(self, steps: int | None = None) -> MixtureReport:
        """The mixture as a tree, with what `steps` optimizer steps are expected to draw of each task.

        Args:
            steps: The trainer's ``max_steps``, or an epoch's, where it is left out.
        """
        plan = self._planned()
        steps = self._requested_steps() if steps is None else steps
        rates = np.asarray(plan.mixture.rates)
        rows_each = float(np.dot(rates, [size.rows for size in self._sizes]))
        return mixture_report(self._sizes, rates, steps * self.rows_per_step / rows_each, self.rules)

    def split_lines(self) -> list[str]:
        """What came of the rules that split a bench's tasks; nothing for other benchmarks."""
        return self.benchmark.split.lines() if isinstance(self.benchmark, Bench) else []

    def _task_names(self) -> dict[Split, list[str]]:
        splits: tuple[Split, ...] = ("train", "validation", "test")
        names = {split: self.benchmark.task_names(split) for split in splits}
        names["validation"] = names["validation"] or names["train"]
        return names

    def _held_out(self, name: str, names: dict[Split, list[str]]) -> dict[str, bool]:
        return {"validated": name in names["validation"], "tested": name in names["test"]}

    def _stored(self, names: dict[Split, list[str]]) -> StoredTasks:
        return open_tasks([self._folder(name, names) for name in names["train"]], self.cache)

    def _folder(self, name: str, names: dict[Split, list[str]]) -> Path:
        """Where a training task's documents are; its files are read for that, once between two ``prepare_data``."""
        held_out = self._held_out(name, names)
        key = (name, *held_out.values())
        if key not in self._folders:
            self._folders[key] = self.preparation.task_folder(name, **held_out)
        return self._folders[key]

    def _plan_training(self, names: dict[Split, list[str]]) -> None:
        names = {**names, "train": self._with_documents(names)}
        stored = self._stored(names)
        tasks = [self._task(name) for name in names["train"]]
        groups = self._groups(stored)
        counts = stored.sizes if groups is None else groups.counts()
        self._sizes = [_task_size(*of, self.row_kind) for of in zip(tasks, stored, counts, strict=True)]
        rates = task_rates(self._sizes, self.rules)
        epoch = self._epoch()
        window = epoch / math.ceil(epoch / WINDOW)  # an epoch is a whole number of windows, and one at least
        mixture = Mixture(names["train"], counts, rates.tolist(), self.seed, window)
        self.plan = TrainPlan(stored, mixture, self.row_kind, self.packing, self.rows_per_step, groups)

    def _groups(self, stored: StoredTasks) -> Groups | None:
        """Documents that are drawn and packed together; None where each stands for itself."""
        return None

    def _with_documents(self, names: dict[Split, list[str]]) -> list[str]:
        """Training tasks that have documents; those whose every example is refused are told."""
        folders = {name: self._folder(name, names) for name in names["train"]}
        stored = {name: read_meta(folder) for name, folder in folders.items() if folder.is_dir()}
        empty = [name for name, meta in stored.items() if not meta["tokens"]]
        if empty and (len(empty) == len(folders) or not all(stored[name]["skipped"] for name in empty)):
            raise ValueError(
                f"{len(empty)} training tasks have no instances left beside {self.counts.test} for test and "
                f"{self.counts.validation} for validation: {some(empty)}; hold out fewer, or take them off the "
                "training list"
            )
        if empty:
            rank_zero_info(f"{len(empty)} training tasks have no example that could train: {some(empty)}")
        return [name for name in folders if name not in set(empty)]

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = self.benchmark.task(name)
        return self._tasks[name]

    def _epoch(self) -> int:
        return sum(min(size.examples, self.rules.cap or size.examples) for size in self._sizes)

    def _planned(self) -> TrainPlan:
        if self.plan is None:
            raise ValueError('there is no training plan yet: call prepare_data() and setup("fit") first')
        return self.plan

    def _requested_steps(self) -> int:
        """The trainer's ``max_steps``; an epoch without a trainer."""
        if self.trainer is None:
            return self.report().steps
        if self.trainer.max_steps < 1:
            raise ValueError(
                "the length of training is counted in optimizer steps: set trainer.max_steps "
                f"(an epoch of this mixture has {self.report().steps})"
            )
        return self.trainer.max_steps

    def _read_evaluation(self, stage: Stage, names: dict[Split, list[str]]) -> None:
        trained = [self._task(name) for name in self._with_documents(names)]
        preparation = self.preparation
        if most := max(self.shots):
            preparation = few_shot_preparation(
                preparation, shots=most, separator=self.shot_separator, room=self.source_length, names=names
            )
        found = read_evaluation(preparation, names, stage, trained, self.ranking, self.shots)
        self._evaluation[stage] = found
        if isinstance(preparation, FewShotPreparation):
            for shots in filter(None, self.shots):
                numbers = {
                    number: count for (k, number), count in sorted(preparation.counts_by_shots.items()) if k == shots
                }
                shown = ", ".join(f"{count} show {number}" for number, count in numbers.items())
                rank_zero_info(f"demonstrations of {stage} prompts at {shots} shots: {shown}")
        for reason, count in found.skipped.items():
            rank_zero_info(f"{count} {stage} examples are not evaluated: {reason}")

    def _evaluation_loader(self, stage: Stage) -> ChainedLoader:
        return self.evaluation_loaders.loader(self._evaluation[stage], replicas(self.trainer), self._answered[stage])


def _task_size(task: Task, stored: StoredTask, draws: int, kind: RowKind) -> TaskSize:
    """What a draw of a task holds on average, where all its documents are `draws` draws."""
    lengths = stored.lengths, stored.n_sources
    return TaskSize(
        name=task.name,
        benchmark=task.benchmark,
        category=task.category,
        examples=draws,
        tokens=float(kind.real_tokens(*lengths).sum()) / max(draws, 1),
        rows=float(kind.sizes(*lengths).sum()) / max(draws, 1) / kind.capacity,
    )
