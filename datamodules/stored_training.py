"""Base class of datamodules that train on a store: documents tokenized once, drawn by a mixture, in packed rows.

``InstructionTuningDataModule`` and ``ScorerDataModule`` are its subclasses.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lightning.pytorch.utilities import rank_zero_info

from .base import BenchmarkDataModule
from .benchmarks import Benchmark
from .evaluation.stored_evaluation import FOLDER as EVALUATIONS
from .messages import expanded
from .mixture.proportions import MixtureRules
from .mixture.task_subset import subset_of
from .packing.best_fit import Packing
from .packing.collate import RowKind
from .packing.document_groups import Groups
from .packing.mixture_plan import MixturePlan
from .packing.row_settings import PackingName, packing_of, require_positive
from .packing.train_stream import TrainStream
from .rendering.prompts import PromptForm
from .rendering.tokenization import tokenizer_fingerprint
from .schema import HasLength, Stage, Task
from .splits import Instances
from .storage.object_digests import declared_state
from .storage.parallel_preparation import PreparationCounts
from .storage.prepared_starts import FOLDER as STARTS
from .storage.prepared_starts import Start, current_start, readers_digest, write_start
from .storage.store import content_key, damage
from .storage.stored_tasks import StoredTasks
from .storage.training_tasks import TrainingTasks
from .stream_changes import flat_settings
from .tracked_files import noting, path_stamps


class StoredRows(HasLength, Protocol):
    """Interface of settings of training rows: ``Rows`` or ``PairRows``."""

    @property
    def per_step(self) -> int: ...
    @property
    def packing(self) -> PackingName: ...


class StoredDataModule(BenchmarkDataModule):
    """Base class of datamodules that tokenize training examples once, keep them on disk, and pack them into rows.

    A tokenized example is a document; the folder on disk is the store. A mixture decides how often each task is drawn.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        tokenizer: Hub name or folder of the tokenizer.
        prompt: How an example becomes a prompt.
        instances: How many instances of a task train, validate and test.
        mixture: How often each task is drawn.
        cache: Folder of the store.
        processes: Number of processes that prepare tasks that the store lacks.
        seed: Seed of renderings, choice of instances, mixture and packing.
    """

    rows: StoredRows
    plan: MixturePlan | None
    reads_only_the_benchmark: ClassVar[bool] = True
    """Whether documents depend on the benchmark's files alone. A prepared run then starts without these files."""

    def __init__(
        self,
        benchmark: Benchmark | str,
        tokenizer: str,
        prompt: PromptForm,
        instances: Instances,
        mixture: MixtureRules,
        cache: str,
        processes: int,
        seed: int,
    ) -> None:
        super().__init__(benchmark, tokenizer, prompt, instances, seed)
        require_positive("data", processes=processes)
        self._benchmark_state = declared_state(self.benchmark)  # before it is used
        self.mixture, self.cache, self.processes = mixture, expanded(cache), processes
        self.prepared = PreparationCounts(0, 0, 0)
        self.verify = False
        """Whether ``prepare_data`` reads all files of the store and compares their checksums."""
        self.compare = False
        """Whether ``prepare_data`` reads the data files even if their sizes and times have not changed."""
        self._training: TrainingTasks | None = None

    @property
    @abstractmethod
    def row_kind(self) -> RowKind:
        """Layout of the rows that the model reads, with their length.

        It is ``CausalRows`` for decoder-only models, ``Seq2SeqRows`` for encoder-decoder models, and ``ScoredRows`` for
        a scorer's pairs.
        """

    @property
    def packing(self) -> Packing:
        """Packing of documents into rows."""
        return packing_of(self.rows.packing)

    @property
    def training_tasks(self) -> TrainingTasks:
        """The run's training tasks with their tokenized examples on disk (the store), to prepare and to open them."""
        if self._training is None:
            folders = self._start.folders if self._start is not None else {}
            self._training = TrainingTasks(self.preparation, self.task_names(), folders)
        return self._training

    def prepare_data(self) -> None:
        """Render and tokenize the training tasks that are not yet on disk, in `processes` processes.

        If all of them are, and no data file has changed since, no data file is read.
        """
        self._forget()
        start = self._current_start()  # loads the tokenizer, whose files are no data files
        if (
            start is not None
            and not (self.verify or self.compare)
            and all(self._is_whole(folder) for folder in start.folders.values())
        ):
            self._start, self.prepared = start, PreparationCounts(0, len(start.folders), 0)
            return
        with noting() as read:
            self.prepared = self.training_tasks.prepare(self.processes, verify=self.verify)
            self._write_start(read)

    def setup(self, stage: str) -> None:
        """Plan the training ("fit"), or read the evaluated examples ("validate", "test", "predict")."""
        if self._start is None and self._training is None:  # another process has prepared the data
            self._start = self._current_start()
        super().setup(stage)

    def _forget(self) -> None:
        """Read tasks and splits again."""
        self._training, self._start, self._tasks = None, None, {}
        self.__dict__.pop("_split_names", None)

    def _is_whole(self, folder: str) -> bool:
        path = self.preparation.folder / folder
        return path.is_dir() and damage(path, fully=False) is None

    @cached_property
    def _start_path(self) -> Path | None:
        """File of a run's ``Start``; None if the benchmark's files are read at every start."""
        if not self.reads_only_the_benchmark:
            return None
        of_preparation = {
            one.name: getattr(self.preparation, one.name)
            for one in fields(self.preparation)
            if one.name not in ("benchmark", "tokenizer", "folder")
        }
        settings = declared_state(of_preparation)
        if self._benchmark_state is None or settings is None:
            return None
        key = content_key(
            benchmark=self._benchmark_state,
            settings=settings,
            tokenizer=tokenizer_fingerprint(self.preparation.tokenizer),
            readers=readers_digest(),
            here=str(Path.cwd()),  # of relative paths
        )
        return self.preparation.folder / STARTS / f"{key}.json"

    def _current_start(self) -> Start | None:
        return None if self._start_path is None else current_start(self._start_path)

    def _write_start(self, read: Set[str]) -> None:
        """Store the ``Start`` of a run, unless the files of some tasks are unknown."""
        if self._start_path is None or not self.training_tasks.sources_known:
            return
        names, shared = self._split_names
        listed = dict.fromkeys(name for of_split in names.values() for name in of_split)
        tasks, lines = {name: self.task(name) for name in listed}, self.split_lines()
        folders = {name: self.training_tasks.folder(name).name for name in names["train"]}
        if read:
            stamped = path_stamps(read, store=self.preparation.folder)
            start = Start(names=names, shared=shared, lines=lines, tasks=tasks, folders=folders, read=stamped)
            write_start(self._start_path, start)
            self._start = start

    def _stage_path(self, stage: Stage, trained: Sequence[Task], *settings: Any) -> Path | None:
        """Return the file of an evaluation set in the store; None if the files of its tasks are unknown.

        Args:
            stage: The stage.
            trained: Tasks that train.
            settings: Settings that decide its examples and prompts, beside the benchmark.
        """
        state = declared_state(settings)
        if self._start is None or self._start_path is None or state is None:
            return None
        names = [task.name for task in trained]
        key = content_key(start=self._start_path.stem, stage=stage, trained=names, settings=state)
        return self.preparation.folder / EVALUATIONS / f"{stage}-{key}.jsonl"

    def trained(self) -> list[Task]:
        """Return the training tasks that have documents."""
        return [self.task(name) for name in self.training_tasks.with_documents()]

    def stream_settings(self) -> dict[str, Any]:
        return super().stream_settings() | flat_settings(mixture=self.mixture)

    def step_examples(self) -> Callable[[], list[tuple[str, str]]]:
        assert isinstance(self._stream, TrainStream)
        return partial(self._examples_of, self._stream.documents)

    def _examples_of(self, step: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        plan = self._planned()
        assert isinstance(plan, MixturePlan)
        documents = defaultdict[int, list[int]](list)
        for task, document in step:
            documents[task].append(document)
        return [
            (name, example)
            for task, numbers in documents.items()
            for name in (plan.mixture.names[task],)
            for example in dict.fromkeys(self.training_tasks.example_ids(name, plan.stored[task], numbers))
        ]

    def _subset(self) -> list[Task]:
        """Return the training tasks that train: all of them, or the mixture's subset."""
        trained, subset = self.trained(), self.mixture.subset
        if subset is None:
            return trained
        names, _ = self._split_names
        evaluated = [self.task(name) for name in {*names["validation"], *names["test"]}]
        kept = set(subset_of(subset, trained, evaluated, self.mixture.extra or {}))
        rank_zero_info(f"{len(kept)} of {len(trained)} training tasks train, those of mixture.subset")
        return [task for task in trained if task.name in kept]

    def _plan_training(self) -> MixturePlan:
        trained = self._subset()
        if not trained:
            raise ValueError(
                f"the benchmark {self.benchmark.name} lists no training tasks: check its folder and its split"
            )
        stored = self.training_tasks.open([task.name for task in trained])
        return MixturePlan(
            stored,
            trained,
            self.row_kind,
            self.mixture,
            packing=self.packing,
            rows_per_step=self.rows.per_step,
            seed=self.seed,
            groups=self._groups(stored),
        )

    def _groups(self, stored: StoredTasks) -> Groups | None:
        """Return the documents that are drawn and packed together; None if each is drawn by itself."""
        return None
