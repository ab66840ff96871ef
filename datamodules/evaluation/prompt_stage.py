"""A stage of evaluation by prompts: its examples, read once, and their batches."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from ..benchmarks import Benchmark, Split
from ..benchmarks.suite import Suite
from ..messages import some
from ..noted_paths import noting, path_stamps
from ..packing.replicas import Replicas
from ..rendering.chosen_demonstrations import read_chosen
from ..rendering.unknown_tokens import unknown_lines
from ..schema import EvaluationExample, Task
from ..splits import EVALUATED
from .coverage import Coverage, suite_coverage
from .evaluation_set import EvaluationSet, read_evaluation
from .few_shot import FewShotPreparation, few_shot_preparation
from .loaders import ChainedLoader, EvaluationLoaders
from .stored_evaluation import current_evaluation, store_evaluation


@dataclass(frozen=True)
class PromptStage:
    """A stage that is evaluated by prompts.

    Args:
        loaders: Turns its examples into batches.
        evaluated: Its examples and their prompts.
    """

    loaders: EvaluationLoaders
    evaluated: EvaluationSet

    @property
    def examples(self) -> Sequence[EvaluationExample]:
        """The evaluated examples, by number."""
        return self.evaluated.examples

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of examples that are not evaluated, by reason."""
        return self.evaluated.skipped

    def loader(self, replicas: Replicas, skip: Collection[int]) -> ChainedLoader:
        """Options to rank, then prompts to generate from; without batches whose examples are all in `skip`."""
        return self.loaders.loader(self.evaluated, replicas, skip)

    def validation_loader(self, replicas: Replicas, skip: Collection[int]) -> ChainedLoader:
        """Packed rows for the loss, then the batches of ``loader``."""
        return ChainedLoader(self.loaders.loss_loader(self.evaluated, replicas), self.loader(replicas, skip))

    def fingerprint(self) -> dict[str, str]:
        """Digests and settings that decide the prompts and their batches."""
        return self.loaders.fingerprint(self.evaluated)

    def coverage(self, benchmark: Benchmark, scored: Collection[int]) -> Coverage | None:
        """Coverage of the tasks that a ``Suite`` lists; None for other benchmarks."""
        if not isinstance(benchmark, Suite):
            return None
        evaluated = self.evaluated
        return suite_coverage(
            benchmark, evaluated.examples, evaluated.rows, evaluated.available or {}, scored, evaluated.unknown
        )


def read_prompt_stage(
    loaders: EvaluationLoaders,
    stage: Split,
    names: Mapping[Split, Sequence[str]],
    trained: Sequence[Task],
    path: Path | None = None,
) -> PromptStage:
    """Read the examples of a stage and render their prompts; the numbers of demonstrations are reported.

    Args:
        loaders: Turns the examples into batches.
        stage: "validation" or "test".
        names: The tasks of each split.
        trained: The tasks that are trained, which decide the level of each example.
        path: File that keeps the examples for the next start; None for none.
    """
    kept = None if path is None else current_evaluation(path)
    if kept is None:
        with noting() as read:
            kept = _read(loaders, stage, names, trained)
        if path is not None and kept[0].sources_known:
            _keep(path, *kept, read, loaders.preparation.folder)
    evaluated, lines = kept
    for line in lines:
        rank_zero_info(line)
    return PromptStage(loaders, evaluated)


@rank_zero_only
def _keep(path: Path, evaluated: EvaluationSet, lines: list[str], names: Collection[str], folder: Path) -> None:
    store_evaluation(path, evaluated, lines, path_stamps(names, store=folder))


def _read(
    loaders: EvaluationLoaders, stage: Split, names: Mapping[Split, Sequence[str]], trained: Sequence[Task]
) -> tuple[EvaluationSet, list[str]]:
    """The examples of a stage, and the lines to print about them."""
    preparation, evaluation = loaders.preparation, loaders.evaluation
    shots = evaluation.shot_numbers
    if most := max(shots):
        separator, room = evaluation.shot_separator, loaders.longest_source
        preparation = few_shot_preparation(
            preparation, shots=most, separator=separator, room=room, names=names, chosen=read_chosen(evaluation.chosen)
        )
    evaluated = read_evaluation(preparation, names, stage, trained, evaluation.ranking, shots)
    lines = _shot_lines(preparation, stage, shots) if isinstance(preparation, FewShotPreparation) else []
    if lost := {name: counts for name, counts in (evaluated.unknown or {}).items() if any(counts)}:
        lines.append(
            "; ".join(f"{quantity} of the {stage} examples: {value}" for quantity, value in unknown_lines(lost))
        )
    return evaluated, lines


def _shot_lines(preparation: FewShotPreparation, stage: str, shots: Sequence[int]) -> list[str]:
    lines = []
    for wanted in filter(None, shots):
        counts = {number: count for (k, number), count in sorted(preparation.counts_by_shots.items()) if k == wanted}
        text = ", ".join(f"{count} have {number}" for number, count in counts.items())
        lines.append(f"demonstrations of {stage} prompts at {wanted} shots: {text}")
    if left_out := sum(preparation.repeated.values()):
        tasks = some([task for task, count in preparation.repeated.items() if count])
        lines.append(f"{left_out} examples are no demonstrations, {EVALUATED}, of {tasks}")
    return lines
