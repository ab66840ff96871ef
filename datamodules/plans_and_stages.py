"""Interfaces of what a datamodule joins: the plan of its training examples, and the stages that it evaluates."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from .benchmarks import Benchmark
from .evaluation.coverage import Coverage
from .packing.replicas import Replicas
from .schema import Description, EvaluationExample, ReportLines


class TrainingPlan(Protocol):
    """Interface of an object that decides which examples every optimizer step trains on, before training begins.

    Implemented by ``MixturePlan`` (packed rows of a mixture of tasks) and ``BilevelPlan`` (instruction optimization).
    """

    def epoch_steps(self, epochs: float = 1.0) -> int:
        """Return the optimizer steps of a number of epochs; a part of a step counts as one."""
        ...

    def require_steps(self, steps: int) -> None:
        """Reject a number of optimizer steps below 1."""
        ...

    def stream(self, here: Replicas, steps: int) -> Any:
        """Return an iterable over one data-parallel replica's batches for `steps` optimizer steps."""
        ...

    def report(self) -> ReportLines:
        """Return the numbers of one epoch: tasks, examples, steps and so on."""
        ...

    def describe(self, steps: int) -> Description:
        """Return the expected draws of each task in `steps` optimizer steps."""
        ...

    def fingerprint(self) -> str:
        """Return a digest of the first examples, equal on every process."""
        ...

    def contents(self) -> dict[str, dict[str, str]]:
        """Return a digest of each task's training examples, by which a resumed run notices changed data.

        The outer keys are names of groups of tasks, e.g. "training tasks"; the inner keys are names of tasks.
        """
        ...


class EvaluationStage(Protocol):
    """Interface of the examples that validation or test evaluates, and of their batches.

    Implemented by ``PromptStage`` (prompts to answer) and ``ResponseStage`` (responses to score).
    """

    @property
    def examples(self) -> Sequence[EvaluationExample]:
        """The evaluated examples: ``examples[i].number == i``."""
        ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of examples that are not evaluated, by reason."""
        ...

    def loader(self, here: Replicas, answered: Collection[int]) -> Any:
        """Return one replica's batches, without those whose examples are all among the numbers in `answered`."""
        ...

    def validation_loader(self, here: Replicas, answered: Collection[int]) -> Any:
        """Return one replica's validation batches: those of the loss, if there is one, then those to answer or score.

        Args:
            here: This process's replica, and the number of replicas.
            answered: Numbers of answered examples. Batches to answer whose examples are all among them are left out;
                the loss has all examples.
        """
        ...

    def fingerprint(self) -> dict[str, str] | None:
        """Return digests of prompts and batches; None if an interrupted evaluation cannot resume."""
        ...

    def coverage(self, benchmark: Benchmark, scored: Collection[int]) -> Coverage | None:
        """Return how much of a paper's table was scored, if the benchmark is such a table (``Suite``); otherwise None.

        Args:
            benchmark: Benchmark of the examples.
            scored: Numbers of the scored examples.
        """
        ...
