"""Adam with decay on matrices alone, and the linear schedule of OPT-IML."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    module: nn.Module, weight_decay: float, *, matrices: frozenset[str] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; biases and norms (one dimension or none) do not.

    Args:
        module: Holds the parameters.
        weight_decay: Of matrices.
        matrices: Names of the matrices, where a strategy may have flattened them since (``matrix_names``).
    """
    matrices = matrix_names(module) if matrices is None else matrices
    parameters = [(plain_name(name), value) for name, value in module.named_parameters() if value.requires_grad]
    decayed = [parameter for name, parameter in parameters if name in matrices]
    others = [parameter for name, parameter in parameters if name not in matrices]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def matrix_names(module: nn.Module) -> frozenset[str]:
    """Names of the parameters with two dimensions or more, as the model was built.

    DeepSpeed's ZeRO-3 keeps a parameter's shape beside it and leaves an empty tensor in its place.
    """
    return frozenset(
        plain_name(name)
        for name, parameter in module.named_parameters()
        if len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
    )


def plain_name(name: str) -> str:
    """A parameter's name without what compilation and wrapping have put into it.

    >>> plain_name("_fsdp_wrapped_module.layers.0._orig_mod.weight")
    'layers.0.weight'
    """
    return name.replace("_fsdp_wrapped_module.", "").replace("_orig_mod.", "")


def accept_named_states(optimizer: Optimizer, module: nn.Module) -> None:
    """Let an optimizer load states that are keyed by parameter names, as sharded strategies save them.

    Numbers mean places in the optimizer's groups; names survive another strategy.

    Args:
        optimizer: Of parameters of the module.
        module: What the names are relative to.
    """

    def numbered(optimizer: Optimizer, states: dict[str, Any]) -> dict[str, Any] | None:
        if not any(isinstance(key, str) for key in states["state"]):
            return None
        places = _names_by_group(optimizer, module)
        numbers = {name: place for place, name in enumerate(name for group in places for name in group)}
        groups = [
            {**theirs, "params": [numbers[name] for name in group]}
            for theirs, group in zip(states["param_groups"], places, strict=True)
        ]
        return {"state": {numbers[name]: states["state"][name] for name in numbers}, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(numbered)


def name_states(states: dict[str, Any], optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """The other way: states keyed by an optimizer's numbers, or by names already, keyed by parameter names."""
    if any(isinstance(key, str) for key in states["state"]):
        return states
    places = _names_by_group(optimizer, module)
    names = [name for group in places for name in group]
    groups = [{**theirs, "params": group} for theirs, group in zip(states["param_groups"], places, strict=True)]
    return {"state": {names[number]: state for number, state in states["state"].items()}, "param_groups": groups}


def _names_by_group(optimizer: Optimizer, module: nn.Module) -> list[list[str]]:
    names = {id(parameter): plain_name(name) for name, parameter in module.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


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


def clipped_share(length: float, *, largest: float) -> float:
    """What a gradient of this length is multiplied by, as ``clip_grad_norm_`` does; 0 clips nothing, as in Lightning.

    >>> clipped_share(0.5, largest=1.0), round(clipped_share(4.0, largest=1.0), 3), clipped_share(4.0, largest=0.0)
    (1.0, 0.25, 1.0)
    """
    return min(1.0, largest / (length + 1e-6)) if largest else 1.0
