"""How a scorer is adapted to a task: the settings of one training."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from ...datamodules.messages import nearest
from ...datamodules.scoring.pair_rows import Truncation
from ..scoring.scorer_losses import ScorerLoss


@dataclass(frozen=True)
class ScorerTraining:
    """How a scorer is adapted to a task; the defaults are the paper's.

    Args:
        pretrained: Hub name or folder of the scorer to start from; a bare encoder is the ablation without pretraining.
        config: Random weights instead: fields of a configuration with model_type.
        tokenizer: By default that of `pretrained`.
        loss: regression is the paper's; pairwise trains a reward model, listwise a ranking of all responses.
        label_temperature: As the module's.
        steps: Optimizer steps.
        batch: Pairs of a step, about: a row of pairs is never split.
        accumulate: Batches that a step is divided into, for memory: the step stays the same.
        gradient_checkpointing: Recompute blocks in the backward pass instead of keeping their activations.
        learning_rate: Peak of the schedule, which warms up for a tenth of its steps and decays to 0.
        schedule_steps: Steps that the schedule is laid out for; `steps` where it is left out. The released program
            takes 800 steps of 128 pairs of a schedule of 12,800 on one device: it ends in the warm-up, at 1.25e-5.
        row_length: Columns of a packed row; for a ranking loss more, where an instruction needs them for all its
            responses, up to those of a whole batch.
        pair_length: Most tokens of a pair.
        truncation: What a longer pair loses, in training and in choosing.
        train_examples: Most training examples of a task.
        calibration_examples: Training examples that are held out, to learn from the answers to them what correctness to
            expect of a score; 0 for no calibration.
        faithful: Draw mismatches as Cappy's released program does.
        accelerator: As the trainer's.
        precision: As the trainer's.
        seed: Of dropout, mixture, and a new head.
    """

    pretrained: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: str | None = None
    loss: ScorerLoss = "regression"
    label_temperature: float = 1.0
    steps: int = 400
    batch: int = 256
    accumulate: int = 1
    gradient_checkpointing: bool = False
    learning_rate: float = 2e-5
    schedule_steps: int | None = None
    row_length: int = 2048
    pair_length: int = 512
    truncation: Truncation = "instruction"
    train_examples: int = 500_000
    calibration_examples: int = 0
    faithful: bool = False
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a scorer's training must be at least 1, got {getattr(self, name)}")

    def changed(self, changes: Mapping[str, Any], where: str) -> "ScorerTraining":
        """The same with other values of some arguments.

        Raises:
            ValueError: There is no such argument, or it cannot have that value; the message begins with `where`.
        """
        known = {field.name for field in fields(self)}
        if unknown := [name for name in changes if name not in known]:
            raise ValueError(f"{where}: there is no {unknown[0]!r} to change, {nearest(unknown[0], known)}")
        if (loss := changes.get("loss", self.loss)) not in get_args(ScorerLoss):
            raise ValueError(f"{where}: loss must be one of {', '.join(get_args(ScorerLoss))}, got {loss!r}")
        return replace(self, **changes)

    @property
    def tokenizer_name(self) -> str:
        name = self.tokenizer or self.pretrained
        if name is None:
            raise ValueError("a scorer with random weights needs a tokenizer: set training.tokenizer")
        return name
