"""What all modules share that train on a planned stream: the loss of a step, dropout by place, exact resumption."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from ..datamodules.replicas import batch_seed, realign_progress, replicas


class PlannedTraining(L.LightningModule):
    """A module whose batches are parts of planned optimizer steps.

    A batch's loss is its part of one mean over the whole step. Subclasses take parts of that mean in
    ``training_step`` and hand them to ``step_part``.
    """

    seed: int
    """Decides what dropout drops."""

    def __init__(self) -> None:
        super().__init__()
        self._step_loss: Tensor | float = 0.0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(batch_seed(self.seed, batch_idx, replicas(self.trainer)))

    def step_part(self, part: Tensor, batch_idx: int) -> Tensor:
        """Log the step's loss once its last batch is here, and return what Lightning should differentiate.

        Args:
            part: This batch's sum over targets, divided by the targets of the whole step.
            batch_idx: The batch's place, as given to ``training_step``.
        """
        here = replicas(self.trainer)
        self._step_loss += part.detach()
        if (batch_idx + 1) % here.accumulation == 0:
            # The mean over replicas of `size` times each part is the sum of the parts.
            loss = self._step_loss * here.size
            self.log("train/loss", loss, prog_bar=True, sync_dist=here.size > 1, batch_size=1)
            self._step_loss = 0.0
        return part * here.loss_scale

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        realign_progress(checkpoint, replicas(self.trainer))
