"""Settings of the optimizer and its learning rate schedule; weight decay applies to matrices only."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..datamodules.messages import counted

Schedule = Literal["linear", "cosine", "constant", "wsd"]


@dataclass(frozen=True)
class Optimization:
    """Settings of the optimizer and its learning rate schedule.

    Args:
        learning_rate: Peak of the schedule, reached at the end of the warm-up.
        warmup: Length of the linear warm-up: an integer is optimizer steps, a float in [0, 1) is a share of
            total_steps.
        schedule: Learning rate after the warm-up. linear and cosine decay to 0 at total_steps, cosine along half a
            wave. constant stays at the peak. wsd (warm-up, stable, decay) stays at the peak and decays linearly to 0
            over the cooldown.
        cooldown: Share of total_steps, at their end, over which wsd decays.
        algorithm: Name of an optimizer in torch.optim, e.g. AdamW, SGD or Muon, or the import path of another, e.g.
            bitsandbytes.optim.AdamW8bit or schedulefree.AdamWScheduleFree. Muon trains the matrices of blocks, AdamW
            the rest.
        options: Further keyword arguments of the algorithm, e.g. momentum of SGD.
        betas: Decay rates of Adam's first and second moment; other algorithms get them if they take betas.
        weight_decay: Decay of matrices; biases and norms never decay. With 0, AdamW is Adam.
        fused: Use torch's fused implementation, which is faster on CUDA.
        master_weights: Step on float32 copies of weights in half precision (network.dtype bfloat16), on one device or
            under ddp. Without them, steps that are small relative to a weight are rounded away.
    """

    learning_rate: float = 5e-5
    warmup: int | float = 0
    schedule: Schedule = "linear"
    cooldown: float = 0.2
    algorithm: str = "AdamW"
    options: dict[str, Any] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    fused: bool = False
    master_weights: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if not 0 <= self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"learning_rate and weight_decay must be finite and at least 0, got {self.learning_rate} and "
                f"{self.weight_decay}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if isinstance(self.warmup, float) and not 0 <= self.warmup < 1:
            raise ValueError(f"warmup as a share must be in [0, 1), got {self.warmup}; optimizer steps are an integer")
        if self.warmup < 0:
            raise ValueError(f"warmup must be at least 0 optimizer steps, got {self.warmup}")
        if not 0 < self.cooldown <= 1:
            raise ValueError(f"cooldown must be a share of the steps, above 0 and at most 1, got {self.cooldown}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be one of {list(get_args(Schedule))}, got {self.schedule!r}")

    def warmup_steps(self, total: int) -> int:
        """Return the optimizer steps of the warm-up in a training of `total` steps; a share is rounded up.

        >>> Optimization(warmup=60).warmup_steps(4000), Optimization(warmup=0.1).warmup_steps(25)
        (60, 3)

        Raises:
            ValueError: The warm-up is longer than the training, or the length of the training is missing.
        """
        if total < 1:
            raise ValueError(f"the schedule needs the number of optimizer steps, set trainer.max_steps, got {total}")
        steps = math.ceil(self.warmup * total) if isinstance(self.warmup, float) else self.warmup
        if steps > total:
            raise ValueError(
                f"optimizer.warmup = {steps} exceeds the {counted(total, 'step')} of the training: shorten it, or "
                "set a share of the training, such as 0.1"
            )
        return steps

    def cooldown_steps(self, total: int) -> int:
        """Return the optimizer steps over which wsd decays, in a training of `total` steps; rounded up.

        >>> Optimization(cooldown=0.2).cooldown_steps(4001)
        801
        """
        return math.ceil(self.cooldown * total)


def parameter_groups(
    module: nn.Module, weight_decay: float, *, matrices: frozenset[str] | None = None
) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: matrices decay; biases and norms (at most one dimension) do not.

    Args:
        module: Holds the parameters.
        weight_decay: Weight decay of the matrices.
        matrices: Names of the matrices (from ``matrix_names``), for strategies that flatten parameters; None to find
            them by their shapes.
    """
    matrices = matrix_names(module) if matrices is None else matrices
    parameters = [(plain_name(name), value) for name, value in module.named_parameters() if value.requires_grad]
    decayed = [parameter for name, parameter in parameters if name in matrices]
    others = [parameter for name, parameter in parameters if name not in matrices]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def matrix_names(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters with two dimensions or more, which weight decay applies to.

    Names stay valid when a strategy flattens the parameters. DeepSpeed's ZeRO-3 leaves empty tensors in the model and
    keeps a parameter's shape in ``ds_shape``.
    """
    return frozenset(
        plain_name(name)
        for name, parameter in module.named_parameters()
        if len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
    )


def plain_name(name: str) -> str:
    """Return a parameter's name without the parts that compilation and FSDP insert.

    >>> plain_name("_fsdp_wrapped_module.layers.0._orig_mod.weight")
    'layers.0.weight'
    """
    return name.replace("_fsdp_wrapped_module.", "").replace("_orig_mod.", "")


def accept_named_states(optimizer: Optimizer, module: nn.Module) -> None:
    """Let an optimizer load states that are keyed by parameter names, as sharded strategies save them.

    torch keys states by a parameter's index in the optimizer's groups, which differs between strategies; names do not.

    Args:
        optimizer: Optimizer of the module's parameters; changed in place.
        module: Module whose parameter names are the keys.
    """

    def numbered(optimizer: Optimizer, states: dict[str, Any]) -> dict[str, Any] | None:
        if not any(isinstance(key, str) for key in states["state"]):
            return None
        places = _names_by_group(optimizer, module)
        numbers = {name: place for place, name in enumerate(name for group in places for name in group)}
        groups = [
            {**group_states, "params": [numbers[name] for name in group]}
            for group_states, group in zip(states["param_groups"], places, strict=True)
        ]
        return {"state": {numbers[name]: states["state"][name] for name in numbers}, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(numbered)


def name_states(states: dict[str, Any], optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """Return an optimizer's ``state_dict`` with parameter names as keys, in place of torch's indices.

    Args:
        states: The optimizer's ``state_dict``; one with names as keys is returned unchanged.
        optimizer: The optimizer, whose groups give the order of the indices.
        module: Holds the optimizer's parameters.
    """
    if any(isinstance(key, str) for key in states["state"]):
        return states
    places = _names_by_group(optimizer, module)
    names = [name for group in places for name in group]
    groups = [
        {**group_states, "params": group} for group_states, group in zip(states["param_groups"], places, strict=True)
    ]
    return {"state": {names[number]: state for number, state in states["state"].items()}, "param_groups": groups}


def _names_by_group(optimizer: Optimizer, module: nn.Module) -> list[list[str]]:
    names = {id(parameter): plain_name(name) for name, parameter in module.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def rate_share(
    step: int, *, warmup: int, total: int, schedule: Schedule = "linear", cooldown: int | None = None
) -> float:
    """Return the learning rate at a step, counted from 0, as a share of its peak.

    The rate rises linearly for `warmup` steps, and then follows the schedule until step `total`.

    >>> [rate_share(step, warmup=2, total=6) for step in range(7)]
    [0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    >>> [round(rate_share(step, warmup=2, total=6, schedule="cosine"), 3) for step in range(7)]
    [0.5, 1.0, 0.905, 0.655, 0.345, 0.095, 0.0]
    >>> [rate_share(step, warmup=2, total=6, schedule="constant") for step in range(7)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> [round(rate_share(step, warmup=2, total=8, schedule="wsd", cooldown=3), 3) for step in range(9)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    Args:
        step: Optimizer step, from 0.
        warmup: Steps of the warm-up.
        total: Steps of the whole schedule.
        schedule: Shape after the warm-up: linear, cosine, constant or wsd.
        cooldown: Steps over which wsd decays; None for all steps after the warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "wsd" and cooldown is not None:
        warmup = max(warmup, total - cooldown)
        if step < warmup:
            return 1.0
    if schedule == "constant":
        return 1.0
    # The first step after the warm-up is already below the peak; the last one trained (total - 1) is above 0.
    remaining = max(0.0, (total - step) / max(total - warmup + 1, 1))
    return remaining if schedule != "cosine" else (1 - math.cos(math.pi * remaining)) / 2


def scheduler(optimizer: Optimizer, settings: Optimization, *, total: int) -> LambdaLR:
    """Return the learning rate schedule of an optimizer over `total` steps.

    OPT-IML (arXiv 2212.12017, Table 3) warms up for 60 of 4,000 steps and decays linearly. `total` is
    trainer.max_steps, never ``trainer.estimated_stepping_batches``: reading that in ``configure_optimizers`` sets up
    the training data early and loses the state of a resumed loader.

    Raises:
        ValueError: The warm-up is longer than the training.
    """
    share: Callable[[int], float] = partial(
        rate_share,
        warmup=settings.warmup_steps(total),
        total=total,
        schedule=settings.schedule,
        cooldown=settings.cooldown_steps(total),
    )
    return LambdaLR(optimizer, share)


def clipped_share(length: float, *, largest: float) -> float:
    """Return the factor that ``clip_grad_norm_`` applies to a gradient of norm `length`; with `largest` 0 it is 1.

    >>> clipped_share(0.5, largest=1.0), round(clipped_share(4.0, largest=1.0), 3), clipped_share(4.0, largest=0.0)
    (1.0, 0.25, 1.0)
    """
    return min(1.0, largest / (length + 1e-6)) if largest else 1.0
