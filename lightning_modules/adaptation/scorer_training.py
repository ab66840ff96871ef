"""Settings of a scorer's training on one task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from ...datamodules.messages import nearest
from ...datamodules.packing.row_settings import require_positive
from ...datamodules.scoring.instruction_truncation import Cut
from ...datamodules.scoring.pair_rows import Truncation
from ...datamodules.scoring.scorer_settings import PairRows
from ..optimization import Optimization
from ..scoring.scorer_losses import ScorerLoss


@dataclass(frozen=True)
class ScorerTraining:
    """Settings of a scorer's training on one task; the defaults are those of Cappy (arXiv 2311.06720).

    Args:
        pretrained: Hub name or folder of the scorer to start from. An encoder without a scoring head is the ablation
            without pretraining.
        config: Start from random weights instead: fields of a configuration, with model_type among them.
        tokenizer: Hub name or folder of the tokenizer; None for that of `pretrained`.
        loss: regression: the paper's squared error. pairwise: the loss of a reward model. listwise: a ranking of all
            responses.
        label_temperature: Temperature of the listwise loss, as in ScorerModule.
        steps: Number of optimizer steps.
        batch: Approximate number of pairs in a step; a row of pairs is never divided.
        accumulate: Number of batches that a step is divided into, to save memory.
        gradient_checkpointing: Recompute blocks in the backward pass instead of keeping their activations.
        learning_rate: Peak of the schedule, which warms up for a tenth of its steps and decays to 0.
        schedule_steps: Length of the schedule in steps; None for `steps`. The released program trains 800 steps of 128
            pairs with a schedule of 12,800 steps on one device, so that it ends in the warm-up, at 1.25e-5.
        row_length: Columns (tokens) of a packed row. A ranking loss uses longer rows if an instruction's responses need
            them, at most as long as a whole batch.
        pair_length: Largest number of tokens of a pair.
        truncation: Side of a longer pair that is cut, in training and selection: instruction, or longest_first (the
            longer side). None for instruction, and with `faithful` for longest_first.
        cut: Part of a too long instruction that is cut, in training and selection: beginning, middle or end. None for
            middle, and with `faithful` for end.
        train_examples: Largest number of training examples of a task.
        calibration_examples: Number of training examples to hold out; responses to them calibrate the scores. 0 for no
            calibration.
        option_samples: Whether to train on responses to examples with options, too, labelled by the right option.
        faithful: Whether to draw, label and cut pairs as Cappy's released program does.
        accelerator: The trainer's accelerator.
        precision: The trainer's precision.
        seed: Seed of dropout, of the mixture, and of a new head.
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
    truncation: Truncation | None = None
    cut: Cut | None = None
    train_examples: int = 500_000
    calibration_examples: int = 0
    option_samples: bool = False
    faithful: bool = False
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("steps", "batch", "accumulate", "schedule_steps")}
        require_positive("training", **counts, row_length=self.row_length, train_examples=self.train_examples)
        PairRows(self.row_length, self.pair_length)
        Optimization(learning_rate=self.learning_rate)
        if not 0 < self.label_temperature < math.inf:
            raise ValueError(f"training.label_temperature must be finite and positive, got {self.label_temperature}")
        if self.calibration_examples < 0:
            raise ValueError(f"training.calibration_examples must be at least 0, got {self.calibration_examples}")

    def changed(self, changes: Mapping[str, Any], where: str) -> "ScorerTraining":
        """Return a copy with other values of some arguments.

        Raises:
            ValueError: An argument does not exist, or rejects its value; the message begins with `where`.
        """
        names = {field.name for field in fields(self)}
        if unknown := [name for name in changes if name not in names]:
            raise ValueError(f"{where}: there is no {unknown[0]!r} to change, {nearest(unknown[0], names)}")
        if (loss := changes.get("loss", self.loss)) not in get_args(ScorerLoss):
            raise ValueError(f"{where}: loss must be one of {', '.join(get_args(ScorerLoss))}, got {loss!r}")
        return replace(self, **changes)

    @property
    def tokenizer_name(self) -> str:
        """Hub name or folder of the tokenizer; a ValueError if there is none."""
        name = self.tokenizer or self.pretrained
        if name is None:
            raise ValueError("a scorer with random weights needs a tokenizer: set training.tokenizer")
        return name
