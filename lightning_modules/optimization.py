"""Adam with decay on matrices alone, and the linear schedule of OPT-IML."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; biases and norms (one dimension or none) do not."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def linear_warmup_decay(step: int, *, warmup: int, total: int) -> float:
    """Share of the peak learning rate before step `step`: up over `warmup` steps, then down to 0 at `total`.

    >>> [linear_warmup_decay(step, warmup=2, total=6) for step in range(7)]
    [0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    # The first step after warm-up is already below the peak; the last one trained (total - 1) is above 0.
    return max(0.0, (total - step) / max(total - warmup + 1, 1))


def linear_schedule(optimizer: Optimizer, *, warmup: int, total: int) -> LambdaLR:
    """Linear warm-up and linear decay to 0 (OPT-IML, Table 3: 60 warm-up steps of 4,000).

    The length is what the trainer is asked to do, never ``trainer.estimated_stepping_batches``: reading that inside
    ``configure_optimizers`` sets up the training data early and loses the state of a resumed loader.

    Raises:
        ValueError: The warm-up is longer than the training.
    """
    if total < 1:
        raise ValueError(f"the schedule needs the number of optimizer steps (trainer.max_steps), got {total}")
    if not 0 <= warmup <= total:
        raise ValueError(f"warmup_steps = {warmup} must lie between 0 and the {total} steps of the training")
    shape: Callable[[int], float] = partial(linear_warmup_decay, warmup=warmup, total=total)
    return LambdaLR(optimizer, shape)
