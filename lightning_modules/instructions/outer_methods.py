"""The settings of the outer level, and the method of the hypergradient that they select."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ...datamodules.bilevel.presets import Choices
from ..hypergradients import (
    CurvatureBackend,
    Direction,
    HessianProduct,
    Method,
    Vector,
    adam_preconditioned,
    adam_sensitivity,
    adam_step_sizes,
    conjugate_gradient,
    exact,
    finite_difference,
    identity,
    neumann,
    sama,
)
from ..named_classes import imported

MethodName = Literal["neumann", "identity", "conjugate_gradient", "adam_preconditioned", "sama"]
CurvatureName = Literal["finite_difference", "exact"]
CURVATURES: dict[CurvatureName, CurvatureBackend] = {"finite_difference": finite_difference, "exact": exact}
METHODS = get_args(MethodName)
ADAM_METHODS: tuple[MethodName, ...] = ("adam_preconditioned", "sama")
"""Methods that read the moments of theta's optimizer."""


@dataclass(frozen=True)
class OuterSettings:
    """Phi's optimizer, and how its hypergradient is computed; None is the preset's choice.

    Args:
        learning_rate: Peak of phi's schedule. The paper uses 1e-5 for the direct embedder and the instance extractor,
            1e-6 for the instance embedder and 5e-5 for the direct extractor.
        weight_decay: Weight decay of phi.
        when: Whether phi's step comes before or after the K-th theta step of a period.
        horizon: Steps over which phi's learning rate falls to 0: its own (outer_steps) or theta's (inner_steps).
        method: Approximation of the inverse Hessian of the inner loss: the paper's neumann, or identity,
            conjugate_gradient, adam_preconditioned (the series of theta's optimizer) or sama. Also the import path of
            another function ``method(v, hessian_product) -> Direction``.
        gradient: Import path of a function that computes the whole hypergradient instead, such as a penalty method:
            ``gradient(inner_losses, outer_losses, theta, phi, reduce=..., **options) -> Hypergradient``.
        options: Keyword arguments of a method or gradient that is given by its import path.
        hessian_products: M. A series has M + 1 terms.
        iterations: Most iterations of conjugate_gradient, each a Hessian product.
        gamma: Step of neumann's series, which multiplies all of it. auto estimates the largest safe one at every
            calibration of the radius.
        damping: Added to the Hessian's diagonal by conjugate_gradient.
        rng: Whether the outer pass has the same dropout masks as the inner passes.
        curvature: finite_difference works with fused kernels, DDP and FSDP2; exact differentiates twice.
        rows_at_once: Rows of a pass of the outer level, whose gradients are summed. If left out, as many as this
            replica's rows of a theta step, so that activations need no more memory than in training.
        calibrate_every: Steps of phi between searches for the radius of the finite differences, 0 for none.
        negligible: Until the next search, Hessian products are skipped if they changed the direction by less than this
            share, which is about the error of finite differences; 0 always computes them.
        noise_every: Steps of phi between measurements of the cosine between the hypergradients of half outer batches,
            0 for none; each takes two further hypergradients.
    """

    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    when: Literal["after", "before"] | None = None
    horizon: Literal["outer_steps", "inner_steps"] | None = None
    method: MethodName | str = "neumann"
    gradient: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    hessian_products: int | None = None
    iterations: int = 10
    gamma: float | Literal["auto"] | None = None
    damping: float = 0.0
    rng: Literal["same", "independent"] | None = None
    curvature: CurvatureName = "finite_difference"
    rows_at_once: int | None = None
    calibrate_every: int = 200
    negligible: float = 1e-3
    noise_every: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "damping", "negligible"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"outer.{name} must be finite and at least 0, got {value}")
        if isinstance(self.gamma, float) and not math.isfinite(self.gamma):
            raise ValueError(f"outer.gamma must be finite, or auto, got {self.gamma}")

    def overrides(self) -> dict[str, Any]:
        """The settings that replace choices of the preset, None for the others; gamma auto replaces none."""
        gamma = None if self.gamma == "auto" else self.gamma
        series = {"hessian_products": self.hessian_products, "gamma": gamma, "rng": self.rng}
        return {**series, "outer_step": self.when, "outer_horizon": self.horizon}


def without_curvature(v: Vector, hessian_product: HessianProduct, *, gamma: float, hessian_products: int) -> Direction:
    """Neumann's series where the Hessian is negligible: (M + 1) gamma v."""
    direction = identity(v, hessian_product, scale=gamma * (hessian_products + 1))
    return direction._replace(gamma=gamma, terms=hessian_products + 1)


@dataclass(frozen=True)
class OuterMethod:
    """An approximation of the inverse Hessian, with its settings.

    Args:
        name: See inverse_hessian.py; or an import path.
        gamma: Step of the Neumann series, or ``"auto"`` to estimate it; the scale of `identity` is (M + 1) gamma.
        hessian_products: M of the series.
        iterations: Most iterations of conjugate gradients.
        damping: Added to the Hessian's diagonal by conjugate gradients.
        options: Keyword arguments of a method that is given by its import path.
    """

    name: MethodName | str
    gamma: float | Literal["auto"]
    hessian_products: int
    iterations: int
    damping: float
    options: Mapping[str, Any]

    def bound(
        self,
        *,
        gamma: float | None,
        uses_curvature: bool = True,
        optimizer: Optimizer | None = None,
        theta: Sequence[Parameter] = (),
        gradient: Sequence[Tensor | None] = (),
    ) -> Method:
        """The method with its keywords bound, as `hypergradient` takes it.

        Args:
            gamma: The last estimate of ``"auto"``; None to estimate it now.
            uses_curvature: False omits the Hessian from Neumann's series, where it is negligible.
            optimizer: Theta's optimizer, for methods that use its moments.
            theta: Its parameters.
            gradient: The gradient of its last step.
        """
        step = self.gamma if self.gamma != "auto" else gamma
        if self.name == "neumann" and not uses_curvature and step is not None:
            return partial(without_curvature, gamma=step, hessian_products=self.hessian_products)
        if self.name == "neumann":
            return partial(neumann, gamma="auto" if step is None else step, hessian_products=self.hessian_products)
        if self.name == "identity":
            assert step is not None
            return partial(identity, scale=step * (self.hessian_products + 1))
        if self.name == "conjugate_gradient":
            return partial(conjugate_gradient, iterations=self.iterations, damping=self.damping)
        if self.name not in METHODS:
            return partial(imported(self.name, "outer.method"), **self.options)
        assert optimizer is not None
        if self.name == "sama":
            return partial(sama, sensitivity=adam_sensitivity(optimizer, theta, gradient))
        sizes = adam_step_sizes(optimizer, theta)
        return partial(adam_preconditioned, step_sizes=sizes, hessian_products=self.hessian_products)

    def changed_by(self, curvature_ratio: float | None) -> float:
        """Estimated change of the direction by the Hessian, as a share of its length.

        With r = ||gamma H p|| / ||p||, the m-th term of Neumann's series differs from v by at most about m r.
        """
        return (curvature_ratio or 0.0) * self.hessian_products / 2 if self.name == "neumann" else math.inf

    def reject(
        self, *, outer_step: Literal["after", "before"], inner_steps: int, curvature: CurvatureName, compiled: bool
    ) -> None:
        """Reject settings that no hypergradient can be computed with.

        Args:
            outer_step: Whether phi's step comes before or after the K-th theta step of a period.
            inner_steps: K.
            curvature: The curvature backend.
            compiled: Whether the model's blocks are compiled.

        Raises:
            ValueError: Two settings are incompatible, with the way out.
        """
        if self.hessian_products < 0 or (self.gamma != "auto" and not self.gamma > 0):
            raise ValueError(
                f"outer.hessian_products (M) must be 0 or more and outer.gamma positive, got {self.hessian_products} "
                f"and {self.gamma}"
            )
        if self.gamma == "auto" and self.name != "neumann":
            raise ValueError(f"outer.gamma auto estimates the step of neumann's series: set a number for {self.name}")
        if self.iterations < 1:
            raise ValueError(f"outer.iterations of conjugate_gradient must be 1 or more, got {self.iterations}")
        if self.name not in METHODS:
            if "." not in self.name:
                raise ValueError(
                    f"outer.method must be one of {list(METHODS)}, or the import path of a function, got {self.name!r}"
                )
            imported(self.name, "outer.method")
        elif self.options:
            raise ValueError(f"outer.options are for a method by its import path, and outer.method is {self.name}")
        if self.damping and self.name != "conjugate_gradient":
            raise ValueError(f"outer.damping = {self.damping} is for conjugate_gradient: leave it out for {self.name}")
        if self.name in ADAM_METHODS and outer_step == "before" and inner_steps == 1:
            raise ValueError(
                f"{self.name} uses Adam's moments, and at inner_steps = 1 the first outer step comes before any theta "
                "step: set outer.when to after, or raise inner_steps"
            )
        if self.name == "sama" and outer_step == "before":
            raise ValueError(
                "sama needs the gradient of the preceding theta step, which a checkpoint between the two steps would "
                "lose: set outer.when to after"
            )
        if curvature == "exact" and compiled:
            raise ValueError(
                "exact differentiates twice, which compiled blocks do not allow: set network.compile to false, or "
                "outer.curvature to finite_difference"
            )


def outer_method(settings: OuterSettings, choices: Choices, *, inner_steps: int, compiled: bool) -> OuterMethod:
    """The method of these settings, completed by the preset's choices.

    Args:
        settings: The user's settings.
        choices: The preset's choices, overridden with the settings.
        inner_steps: K.
        compiled: Whether the model's blocks are compiled.

    Raises:
        ValueError: Two settings are incompatible, with the way out.
    """
    if settings.gradient is not None:
        imported(settings.gradient, "outer.gradient")
    method = OuterMethod(
        name=settings.method,
        gamma="auto" if settings.gamma == "auto" else choices.gamma,
        hessian_products=choices.hessian_products,
        iterations=settings.iterations,
        damping=settings.damping,
        options=settings.options if settings.gradient is None else {},
    )
    method.reject(
        outer_step=choices.outer_step, inner_steps=inner_steps, curvature=settings.curvature, compiled=compiled
    )
    return method
