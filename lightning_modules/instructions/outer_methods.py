"""The methods of the hypergradient as arguments of a module: which there are, and which settings do not go together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

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
from ..sharding.strategies import sharding_of

MethodName = Literal["neumann", "identity", "conjugate_gradient", "adam_preconditioned", "sama"]
CurvatureName = Literal["finite_difference", "exact"]
CURVATURES: dict[CurvatureName, CurvatureBackend] = {"finite_difference": finite_difference, "exact": exact}
OF_ADAM: tuple[MethodName, ...] = ("adam_preconditioned", "sama")
"""Methods that read the moments of theta's optimizer."""


def unbent(v: Vector, hessian_product: HessianProduct, *, gamma: float, hessian_products: int) -> Direction:
    """Neumann's series where the Hessian is negligible: (M + 1) gamma v."""
    return identity(v, hessian_product, scale=gamma * (hessian_products + 1))._replace(gamma=gamma)


@dataclass(frozen=True)
class OuterMethod:
    """What stands in for the inverse Hessian, with its settings.

    Args:
        name: See inverse_hessian.py.
        gamma: Step of the Neumann series, or ``"auto"`` to look for it; the scale of `identity` is (M + 1) gamma.
        hessian_products: M of the series, and the iterations of conjugate gradients.
        damping: Added to the Hessian's diagonal by conjugate gradients.
    """

    name: MethodName
    gamma: float | Literal["auto"]
    hessian_products: int
    damping: float

    def bound(
        self,
        *,
        gamma: float | None,
        bends: bool = True,
        optimizer: Optimizer | None = None,
        theta: Sequence[Parameter] = (),
        gradient: Sequence[Tensor | None] = (),
    ) -> Method:
        """The method with its keywords bound, as `hypergradient` takes it.

        Args:
            gamma: What ``"auto"`` found before; None to look for it now.
            bends: False takes a series of v alone in place of Neumann's, where the Hessian is known not to matter.
            optimizer: Theta's, of methods that read its moments.
            theta: Its parameters.
            gradient: What its last step was given.
        """
        known = self.gamma if self.gamma != "auto" else gamma
        if self.name == "neumann" and not bends and known is not None:
            return partial(unbent, gamma=known, hessian_products=self.hessian_products)
        if self.name == "neumann":
            return partial(neumann, gamma="auto" if known is None else known, hessian_products=self.hessian_products)
        if self.name == "identity":
            assert known is not None
            return partial(identity, scale=known * (self.hessian_products + 1))
        if self.name == "conjugate_gradient":
            return partial(conjugate_gradient, iterations=self.hessian_products, damping=self.damping)
        assert optimizer is not None
        if self.name == "sama":
            return partial(sama, sensitivity=adam_sensitivity(optimizer, theta, gradient))
        sizes = adam_step_sizes(optimizer, theta)
        return partial(adam_preconditioned, step_sizes=sizes, hessian_products=self.hessian_products)

    def changed_by(self, curvature_ratio: float) -> float:
        """About how much the Hessian changes the direction, as a share of its length.

        With r = ||gamma H p|| / ||p||, the m-th term of Neumann's series is off from v by at most about m r.
        """
        return curvature_ratio * self.hessian_products / 2 if self.name == "neumann" else math.inf

    def refuse(
        self, *, outer_step: Literal["after", "before"], inner_steps: int, curvature: CurvatureName, compiled: bool
    ) -> None:
        """Refuse settings that no hypergradient can be computed with.

        Args:
            outer_step: When phi moves, before or after the K-th theta step of a period.
            inner_steps: K.
            curvature: The backend.
            compiled: Whether the model's blocks are compiled.

        Raises:
            ValueError: What does not go together, and the way out.
        """
        if self.hessian_products < 0 or (self.gamma != "auto" and not self.gamma > 0):
            raise ValueError(
                f"hessian_products (M) must be 0 or more and gamma positive, got {self.hessian_products} and "
                f"{self.gamma}"
            )
        if self.gamma == "auto" and self.name != "neumann":
            raise ValueError(f"gamma auto finds the step of the series of neumann; {self.name} needs a number or none")
        if self.name == "conjugate_gradient" and self.hessian_products < 1:
            raise ValueError("conjugate_gradient needs iterations: set hessian_products to 1 or more")
        if self.damping and self.name != "conjugate_gradient":
            raise ValueError(f"damping = {self.damping} is of conjugate_gradient; {self.name} has none")
        if self.name in OF_ADAM and outer_step == "before" and inner_steps == 1:
            raise ValueError(
                f"{self.name} reads Adam's moments, and at inner_steps = 1 the first outer step comes before any "
                "theta step: set outer_step to after, or take more inner steps"
            )
        if self.name == "sama" and outer_step == "before":
            raise ValueError(
                "sama needs the gradient of the theta step that phi's step follows, and a checkpoint between the two "
                "would lose it: set outer_step to after"
            )
        if curvature == "exact" and compiled:
            raise ValueError(
                "exact differentiates twice, which compiled blocks do not allow: set compile to false, or curvature "
                "to finite_difference"
            )


def refuse_strategy(strategy: Strategy, *, curvature: CurvatureName, reads_with_model: bool) -> None:
    """Refuse a trainer's strategy under which the hypergradient would be wrong.

    Args:
        strategy: The trainer's.
        curvature: The backend.
        reads_with_model: Whether texts are represented by the model's own states.

    Raises:
        ValueError: With the way out.
    """
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy):
        raise ValueError(
            "instruction optimization runs on one device, with DDP or with FSDP2 (strategy auto, ddp or "
            f"ShardedStrategy), got {type(strategy).__name__}"
        )
    sharding = sharding_of(strategy)
    if sharding is None:
        return
    if sharding.tensor.size() > 1:
        raise ValueError(
            "a learnable instruction stands before the whole embedded text, which tensor parallelism cuts: set "
            "tensor_parallel_size to 1"
        )
    if curvature != "finite_difference":
        raise ValueError("exact second derivatives cannot pass through shards: set curvature to finite_difference")
    if sharding.compute_dtype is not None:
        raise ValueError(
            f"finite differences need float32, and the blocks compute in {sharding.compute_dtype}: leave "
            "compute_dtype out"
        )
    if reads_with_model:
        raise ValueError("representation model reads with the model outside its forward: set it to own")
