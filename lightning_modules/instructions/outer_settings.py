"""Settings of the outer level, and the method of the hypergradient that they select."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ...datamodules.bilevel.presets import Choices
from ...datamodules.packing.row_settings import require_positive
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
from ..named_classes import imported_to_call

MethodName = Literal["neumann", "identity", "conjugate_gradient", "adam_preconditioned", "sama"]
CurvatureName = Literal["finite_difference", "exact"]
CURVATURES: dict[CurvatureName, CurvatureBackend] = {"finite_difference": finite_difference, "exact": exact}
METHODS = get_args(MethodName)
ADAM_METHODS: tuple[MethodName, ...] = ("adam_preconditioned", "sama")
"""Methods that need the moments of theta's optimizer, which must be Adam."""


@dataclass(frozen=True)
class OuterSettings:
    """Settings of the hypergradient and of the optimizer of phi, the parameters of the learnable instruction.

    Theta are the parameters of the language model. None takes the preset's choice.

    Args:
        learning_rate: Peak of phi's learning rate schedule. The paper uses 1e-5 for direct_embedder and
            instance_extractor, 1e-6 for instance_embedder and 5e-5 for direct_extractor.
        weight_decay: Weight decay of phi.
        when: Whether the outer step comes before or after the K-th inner step of each period.
        horizon: Over which steps phi's learning rate falls to 0. outer_steps: phi's own. inner_steps: theta's, of which
            phi takes one in K, so that it falls by 1 / K only.
        method: Approximation of the inverse Hessian of the inner loss. neumann: the paper's series. identity: no
            Hessian. conjugate_gradient: (H + damping I)^-1 v. adam_preconditioned: the series with Adam's step sizes in
            place of gamma. sama: derivative of Adam's update, no Hessian. Or the import path of a function ``method(v,
            hessian_product) -> Direction``.
        gradient: Import path of a function that computes the whole hypergradient instead, such as a penalty method:
            ``gradient(inner_losses, outer_losses, theta, phi, reduce=..., **options) -> Hypergradient``. None uses
            `method`.
        options: Keyword arguments of a method or gradient given by its import path.
        hessian_products: M, the number of Hessian products of a series, which has M + 1 terms.
        iterations: Largest number of iterations of conjugate_gradient, each with one Hessian product.
        gamma: Step of neumann's series, which also multiplies the whole series (1e-5 in the paper). auto estimates the
            largest safe step at every calibration of the radius.
        damping: Added to the Hessian's diagonal by conjugate_gradient.
        rng: same: the outer pass has the same dropout masks as the inner passes. independent: it has others.
        curvature: How Hessian products are computed. finite_difference works with fused kernels, DDP and FSDP2. exact
            differentiates twice, on one device.
        rows_at_once: Rows in one pass of the outer level, whose gradients are summed. None takes as many as this
            replica's rows of an inner step, so that activations need no more memory than in training.
        calibrate_every: Steps of phi between searches for the radius of the finite differences; 0 never searches.
        negligible: Skip Hessian products until the next search if at the last one they changed the direction by less
            than this share, which is about the error of finite differences. 0 always computes them.
        noise_every: Steps of phi between measurements of the cosine between the hypergradients of half outer batches; 0
            for none. Each measurement computes two more hypergradients. On several devices, a half has half of the
            rows of each, so that a device needs two rows or more.
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
        require_positive("outer", rows_at_once=self.rows_at_once)
        for name in ("calibrate_every", "noise_every"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"outer.{name} must be a number of phi's steps, or 0 for never, got {value}")

    def overrides(self) -> dict[str, Any]:
        """Return the values that replace choices of the preset, by the choices' names; None keeps a choice.

        For gamma "auto" the value is None, since "auto" is no choice of a preset.
        """
        gamma = None if self.gamma == "auto" else self.gamma
        series = {"hessian_products": self.hessian_products, "gamma": gamma, "rng": self.rng}
        return {**series, "outer_step": self.when, "outer_horizon": self.horizon}


def without_curvature(v: Vector, hessian_product: HessianProduct, *, gamma: float, hessian_products: int) -> Direction:
    """Return (M + 1) gamma v, the Neumann series for a Hessian that is negligibly small.

    Args:
        v: Gradient of the outer loss with respect to theta.
        hessian_product: Not called; all methods have the same signature.
        gamma: Step of the series.
        hessian_products: M, the number of Hessian products that the series would have.
    """
    direction = identity(v, hessian_product, scale=gamma * (hessian_products + 1))
    return direction._replace(gamma=gamma, terms=hessian_products + 1)


@dataclass(frozen=True)
class OuterMethod:
    """Name and settings of the method that approximates the inverse Hessian of the inner loss.

    Args:
        name: Name of a function in inverse_hessian.py, or an import path.
        gamma: Step of the Neumann series, or "auto" to estimate it. The scale of `identity` is (M + 1) gamma.
        hessian_products: M, the number of Hessian products of a series.
        iterations: Largest number of iterations of conjugate_gradient.
        damping: Added to the Hessian's diagonal by conjugate_gradient.
        options: Keyword arguments of a method given by its import path.
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
        """Return the method as a function of (v, hessian_product), with its other arguments bound.

        Args:
            gamma: The last estimate if gamma is "auto"; None to estimate it now.
            uses_curvature: False omits the Hessian from Neumann's series, because it is negligible.
            optimizer: Theta's optimizer, for methods that need its moments; None for the other methods.
            theta: Parameters of the optimizer.
            gradient: Theta's gradient at its last step, for sama; None for a parameter that had no gradient.
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
            return partial(own_method(self.name, self.options), **self.options)
        assert optimizer is not None
        if self.name == "sama":
            return partial(sama, sensitivity=adam_sensitivity(optimizer, theta, gradient))
        sizes = adam_step_sizes(optimizer, theta)
        return partial(adam_preconditioned, step_sizes=sizes, hessian_products=self.hessian_products)

    def changed_by(self, curvature_ratio: float | None) -> float:
        """Return an estimate of how much the Hessian changes the result of Neumann's series, as a share of its length.

        For any other method it is infinite, so that its Hessian products are never left out.

        With r = ||gamma H p|| / ||p||, the m-th term of Neumann's series differs from v by at most about m r.

        Args:
            curvature_ratio: r at the last Hessian product; None counts as 0.
        """
        return (curvature_ratio or 0.0) * self.hessian_products / 2 if self.name == "neumann" else math.inf

    def reject(
        self, *, outer_step: Literal["after", "before"], inner_steps: int, curvature: CurvatureName, compiled: bool
    ) -> None:
        """Reject settings with which no hypergradient can be computed.

        Args:
            outer_step: Whether the outer step comes "before" or "after" the K-th inner step of a period.
            inner_steps: K, inner steps for each outer step.
            curvature: Name of the curvature backend.
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
            own_method(self.name, self.options)
        elif self.options:
            raise ValueError(f"outer.options are for a method by its import path, and outer.method is {self.name}")
        if self.damping and self.name != "conjugate_gradient":
            raise ValueError(f"outer.damping = {self.damping} is for conjugate_gradient: leave it out for {self.name}")
        if self.name in ADAM_METHODS and outer_step == "before" and inner_steps == 1:
            raise ValueError(
                f"{self.name} uses Adam's moments, and at inner_steps = 1 the first outer step comes before any inner "
                "step: set outer.when to after, or raise inner_steps"
            )
        if self.name == "sama" and outer_step == "before":
            raise ValueError(
                "sama needs the gradient of the preceding inner step, which a checkpoint between the two steps would "
                "lose: set outer.when to after"
            )
        if curvature == "exact" and compiled:
            raise ValueError(
                "exact differentiates twice, which compiled blocks do not allow: set network.compile to false, or "
                "outer.curvature to finite_difference"
            )


def own_method(path: str, options: Mapping[str, Any]) -> Any:
    """Return the user's function ``method(v, hessian_product, **options) -> Direction`` with an import path."""
    return imported_to_call(path, "outer.method", "v", "hessian_product", options=options)


def own_gradient(path: str, options: Mapping[str, Any]) -> Any:
    """Return the user's function ``gradient(inner_losses, ..., **options) -> Hypergradient`` with an import path."""
    given = ("inner_losses", "outer_losses", "theta", "phi", "reduce=")
    return imported_to_call(path, "outer.gradient", *given, options=options)


def outer_method(settings: OuterSettings, choices: Choices, *, inner_steps: int, compiled: bool) -> OuterMethod:
    """Return the method for the inverse Hessian that a user's settings and the preset's choices select.

    Args:
        settings: The user's settings.
        choices: Choices of the preset (``paper``, ``released_code`` or ``fast``), with the user's own in place of some.
        inner_steps: K, inner steps for each outer step.
        compiled: Whether the model's blocks are compiled, which rules out double backward (``curvature`` exact).

    Raises:
        ValueError: Two settings are incompatible, with the way out.
    """
    whole = settings.gradient is not None
    if settings.gradient is not None:
        own_gradient(settings.gradient, settings.options)
    method = OuterMethod(
        name="identity" if whole else settings.method,  # a whole hypergradient uses no method
        gamma="auto" if settings.gamma == "auto" and not whole else choices.gamma,
        hessian_products=choices.hessian_products,
        iterations=settings.iterations,
        damping=0.0 if whole else settings.damping,
        options={} if whole else settings.options,
    )
    method.reject(
        outer_step=choices.outer_step, inner_steps=inner_steps, curvature=settings.curvature, compiled=compiled
    )
    return method
