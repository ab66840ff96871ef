"""Validation or test by prompts: reads the stage's examples once, and gives their batches."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from ..benchmarks import Benchmark, Split
from ..benchmarks.suite import Suite
from ..messages import counted, some
from ..packing.replicas import Replicas
from ..rendering.chosen_demonstrations import read_chosen
from ..rendering.unknown_tokens import unknown_lines
from ..schema import EvaluationExample, Task
from ..splits import EVALUATED, OPTION
from ..tracked_files import noting, path_stamps
from .batch_loaders import ChainedLoader
from .coverage import Coverage, suite_coverage
from .evaluation_set import EvaluationSet, read_evaluation
from .few_shot import FewShotPreparation, few_shot_preparation
from .loaders import EvaluationLoaders
from .stored_evaluation import current_evaluation, store_evaluation


@dataclass(frozen=True)
class PromptStage:
    """Validation or test by prompts: its examples, and their batches for generation and for ranking of options.

    Args:
        loaders: Builds the dataloaders.
        evaluated: Examples of the stage, and their prompts.
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

    def loader(self, here: Replicas, answered: Collection[int]) -> ChainedLoader:
        """Return the batches of one replica: options to rank, then prompts to generate from.

        Args:
            here: This process's replica.
            answered: Numbers of answered examples; a batch is left out if all its examples are among them.
        """
        return self.loaders.loader(self.evaluated, here, answered)

    def validation_loader(self, here: Replicas, answered: Collection[int]) -> ChainedLoader:
        """Return the batches of one replica: packed rows for the validation loss, then those of ``loader``.

        Args:
            here: This process's replica.
            answered: Numbers of answered examples, which need no generation or ranking; the loss has all examples.
        """
        return ChainedLoader(self.loaders.loss_loader(self.evaluated, here), self.loader(here, answered))

    def fingerprint(self) -> dict[str, str]:
        """Return digests of prompts, tokenizer and batches; an evaluation resumes only if they are unchanged."""
        return self.loaders.fingerprint(self.evaluated)

    def coverage(self, benchmark: Benchmark, scored: Collection[int]) -> Coverage | None:
        """Return how many instances of each task of a published results table were evaluated.

        Args:
            benchmark: The run's benchmark. Only a ``Suite`` lists a published table; None is returned for others.
            scored: Numbers of the examples that were scored.
        """
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
    """Read the examples that validation or test evaluates, and render their prompts.

    How many demonstrations the prompts have is printed.

    Args:
        loaders: Builds the dataloaders; has the settings of rendering and evaluation.
        stage: ``validation`` or ``test``.
        names: Names of the tasks of each split.
        trained: The training tasks, from which each evaluated task's level of generalization follows.
        path: File that stores the examples for later runs, and is read if it is current; None for none.
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
    """Return the examples of a stage, and the lines to print about them."""
    preparation, evaluation = loaders.preparation, loaders.evaluation
    shots = evaluation.shot_numbers
    if most := max(shots):
        separator, room = evaluation.shot_separator, loaders.longest_source
        preparation = few_shot_preparation(
            preparation, shots=most, separator=separator, room=room, names=names, chosen=read_chosen(evaluation.chosen)
        )
    evaluated = read_evaluation(preparation, names, stage, trained, evaluation.ranking, shots)
    lines = _shot_lines(preparation, stage, shots) if isinstance(preparation, FewShotPreparation) else []
    if evaluated.empty:
        lines.append(
            f"{counted(len(evaluated.empty), f'{stage} task')} without a row beside those of training, of the other "
            f"stage and of demonstrations: {some(evaluated.empty)}; hold out fewer ({OPTION}), or demonstrate fewer"
        )
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
        lines.append(f"demonstrations of {stage} prompts at {counted(wanted, 'shot')}: {text}")
    if left_out := sum(preparation.repeated.values()):
        tasks = some([task for task, count in preparation.repeated.items() if count])
        number = counted(left_out, "example is no demonstration", "examples are no demonstrations")
        lines.append(f"{number}, {EVALUATED}, of {tasks}")
    return lines
