"""Adapters that would never change: those whose names fit no module, and those that the loss does not depend on."""

from collections.abc import Iterable, Sequence

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..datamodules.messages import some


def of_target(module: str, target: str) -> bool:
    """Return whether a target is the last part, or are the last parts, of a module's name.

    >>> of_target("layers.0.self_attn.q_proj", "q_proj"), of_target("layers.0.qq_proj", "q_proj")
    (True, False)
    """
    return module == target or module.endswith(f".{target}")


def unmatched_targets(targets: Sequence[str], adapted: Iterable[str]) -> list[str]:
    """Return the targets that fit none of the adapted modules.

    >>> unmatched_targets(["q_proj", "gate_proj"], ["layers.0.q_proj", "layers.0.v_proj"])
    ['gate_proj']
    """
    modules = list(adapted)
    return [target for target in targets if not any(of_target(module, target) for module in modules)]


def require_trained(gradients: Iterable[tuple[str, Tensor | None]], targets: Sequence[str] | None) -> None:
    """Reject targets none of whose adapters has a gradient, and warn of single modules without one.

    A model may define a module that its forward never calls, e.g. `shared` of a BART whose embeddings are untied, or
    one that text does not reach, e.g. the vision tower of a multimodal model.

    Args:
        gradients: Names of the adapters' parameters with their gradients after the first backward pass; None for those
            that the loss does not depend on.
        targets: LoRA's target_modules; None if peft has chosen them.

    Raises:
        ValueError: Names the targets, or reports that the loss depends on no adapter.
    """
    trained = dict[str, bool]()
    for name, gradient in gradients:
        module = name.partition(".lora_")[0]
        trained[module] = trained.get(module, False) or gradient is not None
    idle = [module for module, moves in trained.items() if not moves]
    useful = [module for module, moves in trained.items() if moves]
    lost = [target for target in targets or () if any(of_target(module, target) for module in idle)]
    never = unmatched_targets(lost, useful)
    if never or not useful:
        which = f"{some(never)} in lora.target_modules" if never else "any module with adapters"
        raise ValueError(
            f"the loss does not depend on {which} ({some(idle)}), so that these adapters would never change: name "
            "modules in lora.target_modules that the model's forward calls"
        )
    if idle:
        rank_zero_warn(
            f"the loss of the first step does not depend on {len(idle)} of {len(trained)} modules with adapters, e.g. "
            f"{idle[0]}: theirs change only if other examples reach them. To leave such modules out, give "
            "lora.target_modules longer ends of names, e.g. [self_attn.q_proj]"
        )
