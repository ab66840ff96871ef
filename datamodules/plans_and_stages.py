"""Interfaces of what a datamodule joins: the plan of its training examples, and the stages that it evaluates."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from .benchmarks import Benchmark
from .evaluation.coverage import Coverage
from .packing.replicas import Replicas
from .schema import Description, EvaluationExample, ReportLines


class TrainingPlan(Protocol):
    """Interface of a plan of the training examples of each optimizer step: ``MixturePlan`` or ``BilevelPlan``."""

    def epoch_steps(self, epochs: float = 1.0) -> int:
        """Return the optimizer steps of a number of epochs; a part of a step counts as one."""
        ...

    def require_steps(self, steps: int) -> None:
        """Reject a number of optimizer steps below 1."""
        ...

    def stream(self, here: Replicas, steps: int) -> Any:
        """Return one replica's batches of `steps` optimizer steps."""
        ...

    def report(self) -> ReportLines:
        """Return one epoch in numbers."""
        ...

    def describe(self, steps: int) -> Description:
        """Return the expected draws of each task in `steps` optimizer steps."""
        ...

    def fingerprint(self) -> str:
        """Return a digest of the first examples, equal on every process."""
        ...

    def contents(self) -> dict[str, dict[str, str]]:
        """Return a digest of each task's documents, by group of tasks and task."""
        ...


class EvaluationStage(Protocol):
    """Interface of a stage's examples as batches: ``PromptStage`` or ``ResponseStage``."""

    @property
    def examples(self) -> Sequence[EvaluationExample]:
        """The evaluated examples, by number."""
        ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of examples that are not evaluated, by reason."""
        ...

    def loader(self, here: Replicas, answered: Collection[int]) -> Any:
        """Return one replica's batches, without those whose examples are all among the numbers in `answered`."""
        ...

    def validation_loader(self, here: Replicas, answered: Collection[int]) -> Any:
        """Return the batches of a validation: those of its loss, if there is one, then those of ``loader``."""
        ...

    def fingerprint(self) -> dict[str, str] | None:
        """Return digests of prompts and batches; None if an interrupted evaluation cannot resume."""
        ...

    def coverage(self, benchmark: Benchmark, scored: Collection[int]) -> Coverage | None:
        """Return which tasks of a ``Suite``'s table the scored examples cover; None for other benchmarks."""
        ...
