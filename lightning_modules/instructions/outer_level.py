"""The outer level: phi's optimizer, schedule and hypergradient, and their state in checkpoints.

Lightning counts the steps of all optimizers from ``configure_optimizers`` in ``trainer.global_step``, which decides
when checkpoints are saved and when training ends. Phi's optimizer is kept here instead, so that only theta's steps
count.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from ..hypergradients import Hypergradient, Loss, Method, Reduce, finite_difference, hypergradient
from ..hypergradients.implicit import require_hypergradient
from ..optimization import Optimization, scheduler
from ..resumed_settings import group_settings, restore_settings
from .outer_settings import CURVATURES, OuterMethod, OuterSettings, own_gradient


class OuterLevel:
    """Trains the parameters of a learnable instruction (phi): hypergradient, optimizer, schedule and step counter.

    It also keeps the radius of finite differences and the step gamma of Neumann's series that the last calibration
    found.

    Args:
        phi: Outer parameters: those of the learnable instruction.
        method: The approximation of the inverse Hessian.
        settings: Settings of phi's optimizer and of the hypergradient.
        rng: "same": the outer pass has the same dropout masks as the inner passes. "independent": it has others.
        betas: Decay rates of Adam's two moments.
        total_steps: Number of phi's steps over which its learning rate falls to 0.
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
        self._group_settings = group_settings(self.optimizer)
        self.steps, self.radius = 0, 1e-3
        self.gamma: float | None = None  # the last value of gamma auto
        self.uses_curvature = True  # whether the Hessian was not negligible at the last calibration

    @property
    def calibrates(self) -> bool:
        """Whether the current outer step first searches for the radius of finite differences and for gamma auto."""
        return _due(self.steps, self.settings.calibrate_every)

    @property
    def measures_noise(self) -> bool:
        """Whether the current outer step logs the cosine between the hypergradients of two half outer batches."""
        return _due(self.steps, self.settings.noise_every)

    def current_method(
        self, optimizer: Optimizer, theta: Sequence[Parameter], gradient: Sequence[Tensor | None] = ()
    ) -> Method:
        """Return the approximation of the inverse Hessian for the current outer step.

        Args:
            optimizer: Optimizer of theta, the language model's parameters; some methods read its moments.
            theta: Parameters of the optimizer.
            gradient: Theta's gradient at its last step, for sama; None for a parameter that had no gradient.
        """
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
        """Return the gradient of the sum of the outer losses with respect to phi, averaged over replicas.

        Args:
            method: Approximation of the inverse Hessian, from ``current_method``.
            inner_losses: Functions whose sum is the inner loss.
            outer_losses: Functions whose sum is the outer loss.
            theta: Parameters of the language model.
            reduce: Averages a list of tensors over replicas.
            calibrate: Whether to search for the radius of finite differences first.
        """
        if self.settings.gradient is not None:
            whole = own_gradient(self.settings.gradient, self.settings.options)
            result = whole(inner_losses, outer_losses, theta, self.phi, reduce=reduce, **self.settings.options)
            return require_hypergradient(result, self.phi, self.settings.gradient)
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

    def step(self, result: Hypergradient, *, share: float = 1.0) -> None:
        """Take a step of phi's optimizer and schedule along a hypergradient times `share`, a factor for clipping.

        Radius and gamma of the hypergradient are kept for the next steps.
        """
        if self.calibrates:
            change = self.method.changed_by(result.diagnostics.curvature_ratio)
            self.uses_curvature = change >= self.settings.negligible
        self.radius, self.gamma = result.diagnostics.radius, result.diagnostics.gamma
        for parameter, gradient in zip(self.phi, result.gradients, strict=True):
            parameter.grad = gradient * share
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint; phi itself is among the module's weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "outer_step": self.steps,
            "radius": self.radius,
            "gamma": self.gamma,
            "uses_curvature": self.uses_curvature,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load moments, step counters and calibration; learning rate and decay stay those of this run."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        restore_settings(self.optimizer, self.schedule, self._group_settings)
        self.steps, self.radius = state["outer_step"], state["radius"]
        self.gamma, self.uses_curvature = state["gamma"], state["uses_curvature"]


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
