"""The outer level: how phi's hypergradient is found and phi moved, and all that is remembered in between.

Lightning counts the steps of every optimizer it knows of in ``trainer.global_step``, which decides when checkpoints are
written and when training ends. Kept here, phi's steps are not among them: the trainer counts theta's alone.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from ..hypergradients import Hypergradient, Loss, Method, Reduce, finite_difference, hypergradient
from ..optimization import Optimization, scheduler
from .outer_methods import CURVATURES, OuterMethod, OuterSettings


class OuterLevel:
    """Phi with its optimizer, its schedule, its counter and what was found out about the inner loss.

    Args:
        phi: Outer parameters.
        method: What stands in for the inverse Hessian.
        settings: How else the hypergradient is computed, and phi's learning rate and decay.
        rng: Whether the outer pass drops the same units as the inner ones.
        betas: Adam's decay rates of both moments.
        total_steps: Steps of phi in which the learning rate falls to 0.
    """

    def __init__(
        self,
        phi: Sequence[Parameter],
        method: OuterMethod,
        settings: OuterSettings,
        *,
        rng: Literal["same", "independent"],
        betas: tuple[float, float],
        total_steps: int,
    ) -> None:
        self.phi, self.method, self.settings, self.rng = list(phi), method, settings, rng
        self.curvature = CURVATURES[settings.curvature]
        self.optimizer = AdamW(self.phi, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay)
        self.schedule = scheduler(self.optimizer, Optimization(settings.learning_rate), total=total_steps)
        self.steps, self.radius = 0, 1e-3
        self.gamma: float | None = None  # what gamma auto found
        self.uses_curvature = True  # whether the Hessian changed the direction when it was last looked at

    @property
    def calibrates(self) -> bool:
        """Whether radius and gamma are looked for at this step of phi."""
        return _due(self.steps, self.settings.calibrate_every)

    @property
    def measures_noise(self) -> bool:
        """Whether halves of the outer batch are compared at this step of phi."""
        return _due(self.steps, self.settings.noise_every)

    def method_now(
        self, optimizer: Optimizer, theta: Sequence[Parameter], gradient: Sequence[Tensor | None] = ()
    ) -> Method:
        """The method with what it knows of theta's optimizer, whose last step was given `gradient`."""
        return self.method.bound(
            gamma=None if self.calibrates else self.gamma,
            uses_curvature=self.uses_curvature or self.calibrates,
            optimizer=optimizer,
            theta=theta,
            gradient=gradient,
        )

    def hypergradient(
        self,
        method: Method,
        inner_losses: Sequence[Loss],
        outer_losses: Sequence[Loss],
        theta: Sequence[Parameter],
        reduce: Reduce,
        *,
        calibrate: bool = False,
    ) -> Hypergradient:
        """The gradient with respect to phi of the outer losses' sum, averaged over replicas; nothing moves."""
        return hypergradient(
            method,
            inner_losses,
            outer_losses,
            theta,
            self.phi,
            curvature=self.curvature,
            reduce=reduce,
            rng=self.rng,
            radius=self.radius,
            calibrate=calibrate and self.curvature is finite_difference,
        )

    def step(self, found: Hypergradient, *, share: float = 1.0) -> None:
        """One step of phi along a share of the hypergradient, whose diagnostics are kept for the next."""
        if self.calibrates:
            self.uses_curvature = self.method.changed_by(found.diagnostics.curvature_ratio) >= self.settings.negligible
        self.radius, self.gamma = found.diagnostics.radius, found.diagnostics.gamma
        for parameter, gradient in zip(self.phi, found.gradients, strict=True):
            parameter.grad = gradient * share
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """All of it that a checkpoint must hold; phi itself is among the module's weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "outer_step": self.steps,
            "radius": self.radius,
            "gamma": self.gamma,
            "uses_curvature": self.uses_curvature,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps, self.radius = state["outer_step"], state["radius"]
        self.gamma, self.uses_curvature = state["gamma"], state["uses_curvature"]


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
