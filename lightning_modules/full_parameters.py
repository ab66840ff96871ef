"""Reading and setting parameters in full, whether they are whole on each process or sharded by a strategy."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole_value(parameter: Tensor) -> Tensor:
    """Return the whole of a parameter that may be sharded, on the CPU; every process with a shard must call it."""
    if hasattr(parameter, "ds_id"):
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().cpu().clone()
    values = parameter.detach()
    return values.full_tensor().cpu() if isinstance(values, DTensor) else values.cpu()


def whole_shape(parameter: Tensor) -> torch.Size:
    """Return the shape of the whole parameter, also where this process holds only a shard."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


@torch.no_grad()
def set_whole(parameter: nn.Parameter, value: Tensor) -> None:
    """Set a parameter, which may be sharded, to the whole tensor `value`.

    Every process with a shard must call it with the same values.
    """
    if hasattr(parameter, "ds_id"):
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        with GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
    elif isinstance(parts := parameter.data, DTensor):
        home = value.to(parameter.device, parameter.dtype)
        parameter.copy_(distribute_tensor(home, parts.device_mesh, parts.placements, src_data_rank=None))
    else:
        parameter.copy_(value)


def stored_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, value on the CPU) of each buffer that a model's state has, e.g. the bias of an expert's choice."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:  # private in torch: no public name says it
                yield f"{prefix}.{name}" if prefix else name, whole_value(buffer)
