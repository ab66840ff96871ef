"""Building of models for DeepSpeed's ZeRO-3, whose parameters are partitioned while they are built."""

from collections.abc import Callable
from functools import partial

import torch
from safetensors import safe_open
from torch import distributed as dist
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from ..models import untie_different
from .sharded_models import (
    initialize_buffers,
    require_stored,
    stored_files,
    stored_names,
    stored_tensor,
    table_of,
    weights_folder,
)


def build_partitioned(
    build: Callable[[str | None], PreTrainedModel],
    weights: str | None,
    add: Callable[[PreTrainedModel], None] | None = None,
) -> PreTrainedModel:
    """Build a model for ZeRO-3, which partitions parameters as they are created, and load weights tensor by tensor.

    It is called inside Lightning's ``zero.Init``. transformers loads into partitioned parameters only if its own
    integration is active; here Lightning's is.

    Args:
        build: Returns the model from weights, or with random weights for None.
        weights: Hub name or folder of safetensors. With None, every process initializes the whole model, as a single
            process does, and DeepSpeed partitions it when training starts.
        add: Adds adapters to a model that starts from weights; their values are set later. None without adapters.

    Raises:
        ValueError: The weights are not in safetensors, or lack parameters of the model.
    """
    from deepspeed.runtime.zero.partition_parameters import restore_init_context, shutdown_init_context

    if weights is None:
        shutdown_init_context()
        try:
            return build(None)
        finally:
            restore_init_context()
    with no_init_weights():
        model = build(None)
    model.tie_weights()  # a part of drawing weights, which was left out
    initialize_buffers(model)
    _fill(model, weights)
    if add is not None:
        add(model)
    return model


@torch.no_grad()
def _fill(model: PreTrainedModel, weights: str) -> None:
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    folder = weights_folder(weights)
    files, names = stored_files(folder), stored_names(model, folder)
    if different := untie_different(model, partial(stored_tensor, files, names)):
        raise ValueError(
            f"{folder} stores {different[0]} apart from the table that its configuration ties it to, which ZeRO-3 "
            "cannot load: set the strategy to ShardedStrategy, ddp or ZeRO-2"
        )
    require_stored(model, folder, names)
    # A tied table is one parameter, stored under any of its names.
    of_tables = {table_of(model, name): stored for name, stored in names.items()}
    for name, parameter in model.named_parameters():
        stored = of_tables[table_of(model, name)]
        with GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                with safe_open(files[stored], framework="pt") as file:
                    parameter.copy_(file.get_tensor(stored))
    for name, value in model.state_dict(keep_vars=True).items():
        if name in names and not isinstance(value, nn.Parameter):  # a buffer, whole in every process
            with safe_open(files[names[name]], framework="pt") as file:
                value.copy_(file.get_tensor(names[name]))
