"""Lightning's first FSDP on CPU processes, for tests: its strategy without the demand for CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning.pytorch.strategies.fsdp as lightning_fsdp
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)
from torch.nn import Module


@contextmanager
def whole_states(module: Module, world_size: int, rank0_only: bool = True) -> Iterator[None]:
    """Gather weights and states as copies; Lightning moves them to the CPU, which copies nothing that is there.

    FSDP would then free or overwrite the memory of what a checkpoint holds.
    """
    configs: tuple[Any, Any] = (
        FullStateDictConfig(offload_to_cpu=False, rank0_only=rank0_only),
        FullOptimStateDictConfig(offload_to_cpu=False, rank0_only=rank0_only),
    )
    with FullyShardedDataParallel.state_dict_type(module, StateDictType.FULL_STATE_DICT, *configs):
        yield


lightning_fsdp._get_full_state_dict_context = whole_states


class CPUFSDPStrategy(FSDPStrategy):
    """FSDP strategy over gloo on CPU processes.

    Args:
        state_dict_type: "full" writes a checkpoint into one file, "sharded" into a folder.
    """

    def __init__(self, state_dict_type: Literal["full", "sharded"] = "full") -> None:
        super().__init__(state_dict_type=state_dict_type, process_group_backend="gloo")

    def _setup_model(self, model: Module) -> Module:
        options: dict[str, Any] = {**self.kwargs, "device_id": torch.device("cpu")}  # Lightning gives a CUDA index
        return FullyShardedDataParallel(model, sharding_strategy=self.sharding_strategy, **options)
