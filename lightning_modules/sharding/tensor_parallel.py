"""Tensor parallelism: the matrices of every block are divided over the processes of one replica.

If transformers has a plan for an architecture (Llama, GPT-NeoX, Qwen2 ...) it is used; those of OPT, T5 and mT5 are
here. Parameters that no plan names are kept whole on every process of the replica, as replicated DTensors. All
parameters then share one mesh, so that clipping and fused optimizers treat them alike.
"""

# B rows, L columns, H heads

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from transformers import PreTrainedConfig, PreTrainedModel

from .sequence_parallel import SequenceShards, stacks

_OPT = {
    "layers.*.self_attn.q_proj": "colwise",
    "layers.*.self_attn.k_proj": "colwise",
    "layers.*.self_attn.v_proj": "colwise",
    "layers.*.self_attn.out_proj": "rowwise",
    "layers.*.fc1": "colwise",
    "layers.*.fc2": "rowwise",
}
_T5 = {
    f"block.*.layer.*.{name}": style
    for style, names in {
        "colwise": [
            *(f"{attention}.{part}" for attention in ("SelfAttention", "EncDecAttention") for part in "qkv"),
            *(f"DenseReluDense.{part}" for part in ("wi", "wi_0", "wi_1")),
        ],
        "rowwise": ["SelfAttention.o", "EncDecAttention.o", "DenseReluDense.wo"],
        "heads": ["SelfAttention.relative_attention_bias", "EncDecAttention.relative_attention_bias"],
    }.items()
    for name in names
}
PLANS: dict[str, dict[str, str]] = {"opt": _OPT, "t5": _T5, "mt5": _T5}
"""Plans of architectures that have none in transformers, by model_type, for the stack that holds the blocks."""

STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "heads": lambda: ColwiseParallel(output_layouts=Shard(-1)),  # a table [buckets, H], cut by heads
    "table": lambda: RowwiseParallel(input_layouts=Replicate()),  # a table [V, width], cut by its vocabulary
    "head": lambda: ColwiseParallel(output_layouts=Replicate()),
}


class Replicated(ParallelStyle):
    """Style of parameters that every process of a replica holds whole; the module computes the same on each."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in list(module.named_parameters(recurse=False)):
            whole = distribute_tensor(parameter.data, device_mesh, [Replicate()], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))

        def wrap(value: Any) -> Any:
            if isinstance(value, Tensor) and not isinstance(value, DTensor):
                return DTensor.from_local(value, device_mesh, [Replicate()], run_check=False)
            return value

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return tuple(map(wrap, args)), {name: wrap(value) for name, value in kwargs.items()}

        def after(_: nn.Module, inputs: Any, output: Any) -> Any:
            return output.to_local() if isinstance(output, DTensor) else output

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after)
        return module


def tensor_parallel_plan(model: PreTrainedModel) -> dict[str, str]:
    """Return the style of every module whose parameters are divided, by its full name.

    Raises:
        ValueError: Neither transformers nor this file has a plan for the architecture, or the plan uses an unknown
            style, or the model normalizes queries or keys.
    """
    patterns = _patterns(model)
    plan: dict[str, str] = {}
    for name, module in model.named_modules():
        style = _style(patterns, name)
        if style is not None and next(module.parameters(recurse=False), None) is not None:
            plan[name] = style
    if unknown := sorted(set(plan.values()) - set(STYLES)):
        raise ValueError(
            f"transformers' tensor-parallel plan of {model.config.model_type} uses the styles {unknown}, known are "
            f"{sorted(STYLES)}: set tensor_parallel_size to 1"
        )
    norm = next((name for name, module in model.named_modules() if _divided_norm(name, module)), None)
    if norm is not None:
        raise ValueError(
            f"{norm} normalizes queries or keys, whose heads are divided, and its gradient would miss those of other "
            "processes: set tensor_parallel_size to 1"
        )
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and (module is table or module.weight is table.weight):
            plan[name] = "table"
        elif module is head:
            plan[name] = "head"
    return plan


def _divided_norm(name: str, module: nn.Module) -> bool:
    """Return whether a module with parameters normalizes queries or keys (Phi, Cohere)."""
    named = re.search(r"\.(q|k|qk)_(layer)?norm$", name)
    return named is not None and next(module.parameters(recurse=False), None) is not None


def _style(patterns: dict[str, str], name: str) -> str | None:
    """Return the style of a module, of the matrix that an adapter belongs to, or of the divided part of an adapter.

    If W is divided by outputs, so is B of W + B A; if it is divided by inputs, so is A.
    """
    adapter = re.fullmatch(r"(.*)\.lora_([AB])\.default", name)
    plain = adapter[1] if adapter else name.removesuffix(".base_layer")
    style = next((style for pattern, style in patterns.items() if re.fullmatch(pattern, plain)), None)
    cut = {"colwise": "B", "rowwise": "A"}
    return style if adapter is None or cut.get(style or "") == adapter[2] else None


def _patterns(model: PreTrainedModel) -> dict[str, str]:
    """Return styles by regular expression over full names: this file's plan, else transformers'."""
    kind = model.config.model_type
    own = PLANS.get(kind)
    # transformers names a plan's modules from the stack that holds the blocks.
    plan = own or getattr(model.config, "base_model_tp_plan", None)
    if not plan:
        raise ValueError(
            f"{kind} has no tensor-parallel plan, neither in transformers nor here (known here: {sorted(PLANS)}): set "
            "tensor_parallel_size to 1, FSDP2 shards it as well"
        )
    return {r"(.*\.)?" + re.escape(name).replace(r"\*", r"\d+"): style for name, style in plan.items()}


def require_tensor_parallel(config: PreTrainedConfig, size: int) -> None:
    """Reject a model whose heads or widths cannot be divided into `size` equal parts.

    Raises:
        ValueError: Names the number that cannot be divided.
    """
    heads = config.num_attention_heads
    counts = {
        "attention heads": heads,
        "key-value heads": getattr(config, "num_key_value_heads", None) or heads,
        "columns between the two matrices of a block": next(
            (getattr(config, name) for name in ("ffn_dim", "d_ff", "intermediate_size") if hasattr(config, name)), size
        ),
    }
    for what, count in counts.items():
        if count % size:
            raise ValueError(
                f"tensor_parallel_size = {size} does not divide the {count} {what} of {config.model_type}: choose a "
                f"divisor of {count}"
            )


def parallelize(model: PreTrainedModel, mesh: DeviceMesh, divided: Sequence[nn.Module] = ()) -> None:
    """Divide a model in place over a one-dimensional mesh; tied tables stay tied.

    Every process must hold the same values, or none (the meta device): nothing is sent.

    Args:
        model: The whole model.
        mesh: Processes of one replica.
        divided: All blocks, to divide their residual stream by columns, too (sequence parallelism); none to keep it
            whole.

    Raises:
        ValueError: A module holds parameters beside other modules, so that it cannot be replicated.
    """
    require_tensor_parallel(model.config, mesh.size())
    plan = tensor_parallel_plan(model)
    tied = _tied(model)
    shards = [SequenceShards(model, mesh, stack, plan) for stack in stacks(model, divided)]
    for name, module in list(model.named_modules()):
        if next(module.parameters(recurse=False), None) is None:
            continue
        if name not in plan and next(module.children(), None) is not None:
            raise ValueError(
                f"{name} ({type(module).__name__}) holds parameters beside other modules: it cannot be replicated over "
                "a tensor-parallel group; set tensor_parallel_size to 1"
            )
        style = STYLES[plan[name]]() if name in plan else Replicated()
        for each in shards:
            style = each.prepared(name, module, style)
        parallelize_module(module, mesh, style, src_data_rank=None)
    for first, *others in tied:
        for module, name in others:
            setattr(module, name, getattr(*first))
    for module in model.modules():  # attention that counts its heads by itself now has a share of them
        for name in ("num_heads", "n_heads"):
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, getattr(module, name) // mesh.size())


def _tied(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Return the places (module, attribute) of every parameter that has several."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, name))
    return [shared for shared in places.values() if len(shared) > 1]
