"""Training documents from a store on disk: prepared once, drawn by a mixture, in packed rows."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.utilities import rank_zero_info

from .base import BenchmarkDataModule
from .benchmarks import Benchmark
from .messages import expanded
from .mixture.rates import MixtureRules
from .mixture.task_subset import subset_of
from .packing.best_fit import Packing
from .packing.collate import RowKind
from .packing.document_groups import Groups
from .packing.mixture_plan import MixturePlan
from .packing.row_settings import PackingName, packing_of, require_positive
from .packing.train_stream import TrainStream
from .rendering.prompts import PromptForm
from .schema import HasLength, Task
from .splits import Instances
from .storage.parallel_preparation import Prepared
from .storage.stored_tasks import StoredTasks
from .storage.training_tasks import TrainingTasks
from .stream_changes import described


class StoredRows(HasLength, Protocol):
    """``Rows`` and ``PairRows``."""

    @property
    def per_step(self) -> int: ...
    @property
    def packing(self) -> PackingName: ...


class StoredDataModule(BenchmarkDataModule):
    """Training documents from a store on disk: prepared once, drawn by a mixture, in packed rows.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        tokenizer: Hub name or folder of the tokenizer.
        prompt: How examples are rendered.
        instances: How many instances of a task train, validate and test.
        mixture: How often each task is drawn.
        cache: Folder of the store.
        processes: Processes that prepare what the store lacks.
        seed: Decides renderings, instances, mixture and packing.
    """

    rows: StoredRows
    plan: MixturePlan | None

    def __init__(
        self,
        benchmark: Benchmark | str | Path,
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
        self.mixture, self.cache, self.processes = mixture, expanded(cache), processes
        self.prepared = Prepared(0, 0, 0)
        self.verify = False
        """Whether ``prepare_data`` reads all files of the store and compares their checksums."""
        self._training: TrainingTasks | None = None

    @property
    @abstractmethod
    def row_kind(self) -> RowKind:
        """What a row of the model holds."""

    @property
    def packing(self) -> Packing:
        """How documents share rows."""
        return packing_of(self.rows.packing)

    @property
    def training_tasks(self) -> TrainingTasks:
        """The training tasks in the store."""
        if self._training is None:
            self._training = TrainingTasks(self.preparation, self.task_names())
        return self._training

    def prepare_data(self) -> None:
        """Render and tokenize the training tasks that the store lacks, over `processes`."""
        self._training = None
        self.prepared = self.training_tasks.prepare(self.processes, verify=self.verify)

    def trained(self) -> list[Task]:
        """The training tasks that have documents."""
        return [self.task(name) for name in self.training_tasks.with_documents()]

    def stream_settings(self) -> dict[str, Any]:
        return super().stream_settings() | described(mixture=self.mixture)

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
        """The training tasks that train: all of them, or the mixture's subset."""
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
        """Documents that are drawn and packed together; None if each is drawn by itself."""
        return None
