"""Low-rank adapters (LoRA, arXiv 2106.09685) beside the frozen matrices of a model, through peft.

A matrix W becomes W + alpha / r * B A, where only A [r, in] and B [out, r] are trained, so that gradients and Adam's
moments take a thousandth of the memory. A checkpoint holds the adapters only and names the base weights, which are read
again from where they came.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..datamodules.messages import some
from ..datamodules.pretrained_weights import load_pretrained, require_whole_weights
from .full_parameters import set_whole, stored_buffers, whole_shape, whole_value
from .models import architecture_class
from .prefixes import Prefix, add_prefix
from .quantized_blocks import dequantized, is_quantized, quantize_blocks
from .untrained_adapters import unmatched_targets

NAME = "default"  # of the one adapter, as peft calls it


@dataclass(frozen=True)
class LoRA:
    """Settings of low-rank adapters: which matrices get them, and their rank.

    Args:
        r: Rank of the product B A that is added to a matrix.
        alpha: The product is scaled by alpha / r.
        dropout: Probability of dropout on the inputs of an adapter in training.
        target_modules: Last parts of the names of the modules that get adapters, e.g. [q_proj, v_proj]. None takes
            peft's choice, which it has for some architectures only.
        dora: Train the length of each row of a matrix apart from its direction (DoRA, arXiv 2402.09353).
        bits: 4 keeps the frozen matrices of blocks in 4 bits (NF4, QLoRA, arXiv 2305.14314), through bitsandbytes. None
            keeps them in network.dtype.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None
    dora: bool = False
    bits: Literal[4] | None = None

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora needs a rank r of at least 1, an alpha above 0 and a dropout in [0, 1), got {self.r}, "
                f"{self.alpha} and {self.dropout}"
            )
        if self.bits not in (None, 4) or (self.bits and self.dora):
            raise ValueError(f"lora.bits must be 4 or null, and null with dora, got {self.bits} and dora {self.dora}")
        if self.target_modules is not None and not (self.target_modules and all(self.target_modules)):
            raise ValueError(f"lora.target_modules needs names, or null for peft's choice, got {self.target_modules}")


def holds_whole_weights(strategy: Strategy) -> bool:
    """Return whether under a strategy every process holds all weights and saves them as a checkpoint of one file."""
    return isinstance(strategy, SingleDeviceStrategy | DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)


def reject_adapters(adapters: LoRA | Prefix, strategy: Strategy) -> None:
    """Reject a strategy that cannot train adapters or a prefix.

    Raises:
        ValueError: With the strategies that can.
    """
    if holds_whole_weights(strategy):
        return
    where = type(strategy).__name__
    if isinstance(adapters, LoRA) and adapters.bits:
        raise ValueError(f"lora.bits keeps whole matrices in 4 bits: set the strategy to auto or ddp, got {where}")
    if isinstance(adapters, Prefix):
        raise ValueError(f"a prefix is trained beside whole weights: set the strategy to auto or ddp, got {where}")
    if not isinstance(strategy, ModelParallelStrategy | DeepSpeedStrategy):
        raise ValueError(f"lora trains under auto, ddp, ShardedStrategy and DeepSpeed, got {where}")
    cut = isinstance(strategy, ModelParallelStrategy) and strategy.device_mesh["tensor_parallel"].size() > 1
    if adapters.dora and (cut or (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3)):
        raise ValueError(
            f"lora.dora reads whole rows of matrices, which {where} cuts here: set the strategy to auto, ddp, "
            "ShardedStrategy without tensor parallelism, or ZeRO-2"
        )


def add_adapters(model: PreTrainedModel, lora: LoRA) -> None:
    """Freeze a model and add adapters in float32 beside its matrices. ``start_adapters`` then sets their values.

    Raises:
        ValueError: A target fits no module.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import

    targets = None if lora.target_modules is None else list(lora.target_modules)
    if lora.bits == 4:
        quantize_blocks(model)
    settings: dict[str, Any] = {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    config = LoraConfig(**settings, use_dora=lora.dora, init_lora_weights=False, target_modules=targets)
    called = f"{type(model).__name__}, whose modules with weights are called {_called(model, nn.Module)}"
    linear = _called(model, (nn.Linear, Conv1D))
    try:
        inject_adapter_in_model(config, model, NAME)
    except ValueError as error:
        if targets is None:
            raise ValueError(
                f"peft chooses no modules for {model.config.model_type}: set lora.target_modules to some of {linear}, "
                "e.g. to those of attention"
            ) from error
        raise ValueError(f"lora.target_modules = {targets} does not fit {called}: {error}") from error
    if unmatched := unmatched_targets(targets or (), (name for name, _ in _adapted(model))):
        raise ValueError(f"lora.target_modules has {some(unmatched)}, which no module ends with in {called}")
    head = model.get_output_embeddings()
    if model.config.tie_word_embeddings and any(
        NAME in module.lora_embedding_A or module is head for _, module in _adapted(model)
    ):
        raise ValueError(
            f"{type(model).__name__} ties its head to its embeddings, so that adapters of either cannot be merged: "
            "leave them out of lora.target_modules"
        )
    for parameter in model.parameters():
        if parameter.requires_grad and not hasattr(parameter, "ds_id"):  # DeepSpeed keeps its own float32 copy
            parameter.data = parameter.data.float()


def _called(model: nn.Module, kind: type | tuple[type, ...]) -> list[str]:
    """Return the last parts of the names of a model's modules of a kind that have weights."""
    modules = [(name, part) for name, part in model.named_modules() if hasattr(part, "weight")]
    return sorted({name.rpartition(".")[2] for name, part in modules if isinstance(part, kind)})


def start_adapters(model: PreTrainedModel, seed: int = 0) -> None:
    """Set adapters to values that do not change the model's outputs: A random, B zero, DoRA's lengths as they are.

    A is drawn from the seed and the module's name, so that it is the same under every strategy.
    """
    for name, module in _adapted(model):
        generator = torch.Generator().manual_seed(int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:15], 16))
        if NAME in module.lora_A:
            a, b = module.lora_A[NAME].weight, module.lora_B[NAME].weight
            drawn = torch.empty(whole_shape(a))
            torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            set_whole(a, drawn)
            set_whole(b, torch.zeros(whole_shape(b)))
        else:
            a, b = module.lora_embedding_A[NAME], module.lora_embedding_B[NAME]
            set_whole(a, torch.zeros(whole_shape(a)))
            set_whole(b, torch.empty(whole_shape(b)).normal_(generator=generator))
        if NAME in module.lora_magnitude_vector:
            lengths = _out_by_in(module, whole_value(module.base_layer.weight)).norm(dim=1)
            set_whole(module.lora_magnitude_vector[NAME].weight, lengths)


def _adapted(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """Return the modules with adapters, by name."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight"))


def _out_by_in(module: Any, weight: Tensor) -> Tensor:
    """Return a matrix in float32 with one row per output; GPT-2 and embeddings store the transpose."""
    transposed = NAME in module.lora_embedding_A or getattr(module, "fan_in_fan_out", False)
    return weight.float().T if transposed else weight.float()


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield a model's weights and buffers on the CPU, one at a time, with adapters merged.

    Their names are those of a model without adapters. Every process that holds a part of the weights must iterate.
    """
    adapted: dict[str, Any] = {f"{name}.base_layer.weight": module for name, module in _adapted(model)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        value = dequantized(parameter) if is_quantized(parameter) else whole_value(parameter)
        if name in adapted:
            value = _merged(adapted[name], value)
        yield name.replace(".base_layer.", "."), value
    for name, buffer in stored_buffers(model):
        yield name.replace(".base_layer.", "."), buffer


def _merged(module: Any, weight: Tensor) -> Tensor:
    """Return W + alpha / r * B A, with rows of the trained lengths under DoRA, in the dtype and layout of W."""
    if NAME in module.lora_A:
        a, b = whole_value(module.lora_A[NAME].weight), whole_value(module.lora_B[NAME].weight)
    else:
        a, b = whole_value(module.lora_embedding_A[NAME]), whole_value(module.lora_embedding_B[NAME])
    merged = _out_by_in(module, weight) + module.scaling[NAME] * (b.float() @ a.float())
    if NAME in module.lora_magnitude_vector:
        lengths = whole_value(module.lora_magnitude_vector[NAME].weight).float()
        merged *= (lengths / merged.norm(dim=1)).unsqueeze(1)
    return _out_by_in(module, merged).to(weight.dtype).contiguous()


def save_adapters(
    states: Iterable[tuple[str, Tensor]],
    described: Mapping[str, Any],
    folder: Path,
    *,
    two_stacks: bool,
    dtype: torch.dtype | None = None,
) -> None:
    """Write adapters as a folder that ``peft.PeftModel.from_pretrained`` loads.

    Args:
        states: The adapters of a checkpoint, by the model's parameter names.
        described: The description that ``describe_adapters`` returned.
        folder: Output folder; created if it is missing.
        two_stacks: Whether the model is an encoder-decoder.
        dtype: Type of the written tensors; None keeps their own.
    """
    from peft import LoraConfig, TaskType

    lora = LoRA(**described["lora"])
    tensors = {
        f"base_model.model.{_peft_name(name)}": value.to(dtype or value.dtype).contiguous() for name, value in states
    }
    adapted = sorted({name.partition(".lora_")[0].removeprefix("base_model.model.") for name in tensors})
    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=adapted if lora.target_modules is None else list(lora.target_modules),
        base_model_name_or_path=described["weights"],
        task_type=TaskType.SEQ_2_SEQ_LM if two_stacks else TaskType.CAUSAL_LM,
        inference_mode=True,
    ).save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _peft_name(name: str) -> str:
    """Return a parameter's name in peft's files, which leave out the adapter's name.

    >>> _peft_name("layers.0.fc1.lora_A.default.weight"), _peft_name("fc1.lora_magnitude_vector.default.weight")
    ('layers.0.fc1.lora_A.weight', 'fc1.lora_magnitude_vector')
    """
    plain = name.replace(f".{NAME}", "")
    return plain.removesuffix(".weight") if ".lora_magnitude_vector" in plain else plain


def frozen_digest(model: PreTrainedModel) -> str:
    """Return a digest of a model's frozen weights: of the first numbers of each parameter, and the sum of all bits.

    It is the same for weights that are stored in a wider type. Every process that holds a part of the weights must call
    it.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            values = whole_value(parameter).flatten()
            digest.update(name.replace(".base_layer.", ".").encode() + values[:64].double().numpy().tobytes())
            digest.update(_sum_of_bits(values).to_bytes(8, "little"))
    return digest.hexdigest()[:16]


def _sum_of_bits(values: Tensor) -> int:
    """Return the sum of numbers as float64, read as whole numbers modulo 2^64; it does not depend on their order."""
    return sum(int(part.double().view(torch.int64).sum()) for part in values.split(2**20)) % 2**64


def describe_adapters(model: PreTrainedModel, adapters: LoRA | Prefix, weights: str) -> dict[str, Any]:
    """Return settings of adapters or a prefix, with name, type and digest of the frozen weights beside them.

    A checkpoint that holds only adapters states them, so that they are never loaded onto another model.

    Args:
        model: The model with its adapters or prefix.
        adapters: Their settings.
        weights: Hub name or folder of the frozen weights.
    """
    kind = "lora" if isinstance(adapters, LoRA) else "prefix"
    return {kind: asdict(adapters), "weights": weights, "dtype": str(model.dtype), "digest": frozen_digest(model)}


def described_adapters(described: Mapping[str, Any]) -> LoRA | Prefix:
    """Return the settings of adapters or a prefix from the description in a checkpoint (``describe_adapters``)."""
    return LoRA(**described["lora"]) if "lora" in described else Prefix(**described["prefix"])


def require_same_base(
    model: PreTrainedModel, adapters: LoRA | Prefix, described: Mapping[str, Any], where: object
) -> None:
    """Reject adapters of other settings, or of other base weights, than the model's.

    Raises:
        ValueError: With the differences.
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
    """Return the model of a checkpoint that holds a prefix only: the base weights, read again, with the prefix.

    Args:
        architecture: Name of the model's class in transformers.
        described: The description that ``describe_adapters`` returned.
        states: The prefix's parameters, by the model's parameter names.
        tokenizer: Tokenizer of the model.
        where: The checkpoint, for messages.

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
    """Return the model of a checkpoint that holds adapters only: the base weights, read again, with the adapters.

    Args:
        architecture: Name of the model's class in transformers.
        described: The description that ``describe_adapters`` returned.
        states: The adapters, by the model's parameter names.
        where: The checkpoint, for messages.

    Raises:
        ValueError: The base weights are missing or different, or the checkpoint lacks adapters.
    """
    lora = LoRA(**described["lora"])
    model = _base_model(architecture, described, where)
    add_adapters(model, lora)
    start_adapters(model)
    require_same_base(model, lora, described, where)
    _load_trained(model, states, where)
    return model


def _load_trained(model: PreTrainedModel, states: Mapping[str, Tensor], where: object) -> None:
    """Load exactly the trained parameters of a model."""
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
