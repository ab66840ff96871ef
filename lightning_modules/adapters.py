"""Low-rank adapters (LoRA, arXiv 2106.09685) beside a model's frozen matrices, through peft.

A matrix W of a model becomes W + alpha / r * B A, of which A [r, in] and B [out, r] alone are trained: a device holds
gradients and Adam's moments of a thousandth of the parameters. A checkpoint holds the adapters alone; the model they
belong to is found again where its weights came from.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..datamodules.pretrained_weights import load_pretrained, require_whole_weights
from .models import architecture_class
from .prefixes import Prefix, add_prefix

NAME = "default"  # of the one adapter, as peft calls it


@dataclass(frozen=True)
class LoRA:
    """Which matrices get adapters, and how large ones.

    Args:
        r: Rank of the product that is added to a matrix.
        alpha: The product is scaled by alpha / r.
        dropout: Probability of dropping an adapter's inputs while training.
        target_modules: Ends of the names of the modules that get adapters, e.g. [q_proj, v_proj]; those that peft
            knows for the architecture if left out.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora needs a rank r of at least 1, an alpha above 0 and a dropout in [0, 1), got {self.r}, "
                f"{self.alpha} and {self.dropout}"
            )
        if self.target_modules is not None and not (self.target_modules and all(self.target_modules)):
            raise ValueError(f"lora.target_modules needs names, or null for peft's choice, got {self.target_modules}")


def add_adapters(model: PreTrainedModel, lora: LoRA) -> None:
    """Freeze a model and put adapters, in float32, beside its matrices; it computes what it did until they are trained.

    Raises:
        ValueError: No module has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import

    targets = None if lora.target_modules is None else list(lora.target_modules)
    settings: dict[str, Any] = {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    config = LoraConfig(**settings, target_modules=targets)
    try:
        inject_adapter_in_model(config, model, NAME)
    except ValueError as error:
        kinds = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if hasattr(part, "weight")})
        raise ValueError(
            f"lora.target_modules = {targets} does not fit {type(model).__name__}, whose modules with weights are "
            f"called {kinds}: {error}"
        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """A model's weights on the CPU, one at a time, with its adapters added to them, by the names of a model without."""
    changed: dict[str, Any] = {
        f"{name}.base_layer.weight": module
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        value = parameter.detach()
        if name in changed:
            value = (value.float() + changed[name].get_delta_weight(NAME)).to(value.dtype)
        yield name.replace(".base_layer.", "."), value.cpu()


def frozen_digest(model: PreTrainedModel) -> str:
    """Tells one model's frozen weights from another's, by the first numbers of each."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            first = parameter.detach().flatten()[:64].double().cpu().numpy()
            digest.update(name.replace(".base_layer.", ".").encode() + first.tobytes())
    return digest.hexdigest()[:16]


def describe_adapters(model: PreTrainedModel, adapters: LoRA | Prefix, weights: str) -> dict[str, Any]:
    """What a checkpoint of adapters, or of a prefix, must say to be used again."""
    kind = "lora" if isinstance(adapters, LoRA) else "prefix"
    return {kind: asdict(adapters), "weights": weights, "dtype": str(model.dtype), "digest": frozen_digest(model)}


def described_adapters(described: Mapping[str, Any]) -> LoRA | Prefix:
    """The settings that ``describe_adapters`` noted."""
    return LoRA(**described["lora"]) if "lora" in described else Prefix(**described["prefix"])


def require_same_base(
    model: PreTrainedModel, adapters: LoRA | Prefix, described: Mapping[str, Any], where: object
) -> None:
    """Refuse adapters of another shape or of another model's weights.

    Raises:
        ValueError: With what differs.
    """
    if (theirs := described_adapters(described)) != adapters:
        raise ValueError(f"{where} holds adapters of {theirs}, expected {adapters}")
    if described["digest"] != frozen_digest(model):
        raise ValueError(
            f"{where} holds adapters of other weights: they were trained beside those of {described['weights']} as "
            f"{described['dtype']}"
        )


def prefixed_model(
    architecture: str, described: Mapping[str, Any], states: Mapping[str, Tensor], tokenizer: Any, where: object
) -> PreTrainedModel:
    """The model of a checkpoint of a prefix; arguments as those of ``adapted_model``.

    Raises:
        ValueError: The base weights are missing or different, or the checkpoint has no prefix.
    """
    prefix = described_adapters(described)
    assert isinstance(prefix, Prefix)
    model = _base_model(architecture, described, where)
    add_prefix(model, prefix, tokenizer)
    require_same_base(model, prefix, described, where)
    _load_trained(model, states, where)
    return model


def _base_model(architecture: str, described: Mapping[str, Any], where: object) -> PreTrainedModel:
    dtype = getattr(torch, described["dtype"].removeprefix("torch."))
    try:
        return load_pretrained(architecture_class(architecture), described["weights"], dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{where} holds adapters of {described['weights']}: {error}") from error


def adapted_model(
    architecture: str, described: Mapping[str, Any], states: Mapping[str, Tensor], where: object
) -> PreTrainedModel:
    """The model of a checkpoint of adapters, from its weights and the adapters.

    Args:
        architecture: Class in transformers.
        described: What ``describe_adapters`` said.
        states: The adapters, by the model's names.
        where: For messages.

    Raises:
        ValueError: The base weights are missing or different, or the checkpoint lacks adapters.
    """
    lora = LoRA(**described["lora"])
    model = _base_model(architecture, described, where)
    add_adapters(model, lora)
    require_same_base(model, lora, described, where)
    _load_trained(model, states, where)
    return model


def _load_trained(model: PreTrainedModel, states: Mapping[str, Tensor], where: object) -> None:
    """Load the trained parameters of a model, all of them and no others."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    shapes = {name: (tuple(states[name].shape), tuple(trained[name].shape)) for name in trained if name in states}
    require_whole_weights(
        where,
        f"the adapters of {type(model).__name__}",
        expected=len(trained),
        missing=set(trained) - set(states),
        reshaped={name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
    )
    if unknown := sorted(set(states) - set(trained)):
        raise ValueError(f"{where} has {len(unknown)} weights beside its adapters, e.g. {unknown[0]}")
    model.load_state_dict(dict(states), strict=False)
