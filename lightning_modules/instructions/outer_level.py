"""The outer level's own optimizer: phi's Adam, its schedule and its counter, apart from Lightning's.

Lightning counts the steps of every optimizer it knows of in ``trainer.global_step``, which decides when checkpoints are
written and when training ends. Kept here, phi's steps are not among them: the trainer counts theta's alone.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW

from ..optimization import linear_schedule


class OuterLevel:
    """What moves phi, and all of it that a checkpoint must hold.

    Args:
        phi: Outer parameters.
        learning_rate: Peak of the schedule.
        betas: Adam's decay rates of both moments.
        weight_decay: Decay of phi.
        warmup_steps: Steps of phi until the peak.
        total_steps: Steps of phi in which the learning rate falls to 0.
    """

    def __init__(
        self,
        phi: Sequence[Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
    ) -> None:
        self.phi = list(phi)
        self.optimizer = AdamW(self.phi, lr=learning_rate, betas=betas, weight_decay=weight_decay)
        self.schedule = linear_schedule(self.optimizer, warmup=warmup_steps, total=total_steps)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step of phi along the gradients, which are in the order of phi."""
        for parameter, gradient in zip(self.phi, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
