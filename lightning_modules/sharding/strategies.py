"""ShardedStrategy: FSDP2 with tensor parallelism, hybrid sharding and host offload, configured in YAML."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed.checkpoint as dcp
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.fabric.strategies.model_parallel import _load_raw_module_state
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from ..optimization import name_states
from .checkpoint_replacement import replace_whole
from .checkpoints import require_whole_checkpoint
from .plain_checkpoints import read_plain
from .sharded_models import Sharding


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 with tensor parallelism: Lightning's ``ModelParallelStrategy``, with sizes computed from the devices.

    Every block of the model is sharded over the data-parallel processes; their number is that of all processes divided
    by `tensor_parallel_size`. A checkpoint is a folder that appears under its name only once it is complete.

    Args:
        tensor_parallel_size: Number of processes that divide the matrices of one replica; they should be on one node. 1
            for no tensor parallelism.
        sequence_parallel: Divide residual stream and norms over the processes of a replica, too, by the columns of
            rows. Their number must be a multiple of `tensor_parallel_size` in training.
        copies: Number of groups of processes that each hold the whole model in shards (hybrid sharding). 1 shards it
            over all data-parallel processes. The number of nodes keeps gathering within nodes.
        compute_dtype: Type in which blocks are gathered and computed: float32, bfloat16 or float16. Weights and
            gradient sums stay float32. None for the type of the parameters.
        offload: Keep shards and optimizer states in the host's memory.
        reduce_once: Reduce gradients over processes at the last accumulated batch of a step only. Until then each
            device holds the gradients of whole matrices, in float32 if `compute_dtype` is set; `crosstask plan` counts
            them. Copies of the model exchange gradients once a step in any case.
        save_distributed_checkpoint: Each process writes its part of a checkpoint. False: process 0 gathers everything
            into one file.
        process_group_backend: torch.distributed's backend; None for nccl on CUDA and gloo on a CPU.
        timeout: Longest time to wait for other processes in a collective.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        copies: int = 1,
        compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        offload: bool = False,
        reduce_once: bool = False,
        sequence_parallel: bool = False,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        if tensor_parallel_size < 1 or copies < 1:
            raise ValueError(
                f"tensor_parallel_size and copies must be at least 1, got {tensor_parallel_size} and {copies}"
            )
        if sequence_parallel and tensor_parallel_size == 1:
            raise ValueError("sequence_parallel divides rows over a tensor-parallel group: set tensor_parallel_size")
        self.tensor_parallel, self.copies, self.offload = tensor_parallel_size, copies, offload
        self.reduce_once, self.sequence_parallel = reduce_once, sequence_parallel
        self.compute_dtype = getattr(torch, compute_dtype) if compute_dtype else None

    def setup_environment(self) -> None:
        world = self.num_nodes * self.num_processes
        if world % (self.tensor_parallel * self.copies):
            raise ValueError(
                f"{world} processes ({self.num_nodes} nodes x {self.num_processes} devices) cannot be divided into "
                f"tensor_parallel_size = {self.tensor_parallel} x copies = {self.copies}: choose a divisor"
            )
        self._data_parallel_size = world // self.tensor_parallel
        super().setup_environment()
        shape = (self.copies, world // self.tensor_parallel // self.copies, self.tensor_parallel)
        self._hybrid_mesh = init_device_mesh(
            self.root_device.type, shape, mesh_dim_names=("copies", "shards", "tensor_parallel")
        )

    def sharding(self) -> Sharding:
        """Return how a module must shard its model."""
        data = self._hybrid_mesh["copies", "shards"] if self.copies > 1 else self._hybrid_mesh["shards"]
        tensor, device = self._hybrid_mesh["tensor_parallel"], self.root_device
        return Sharding(data, tensor, device, self.compute_dtype, self.offload, self.sequence_parallel)

    def model_to_device(self) -> None:
        if not self.offload:
            super().model_to_device()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Context that Lightning enters for every accumulated batch of a step but the last.

        Each copy of the model sums the gradients of its shards before copies exchange them, which takes no memory.
        """
        assert self.lightning_module is not None
        sharded = [module for module in self.lightning_module.modules() if isinstance(module, FSDPModule)]
        _communicate(sharded, shards=not self.reduce_once, copies=False)
        try:
            yield
        finally:
            _communicate(sharded, shards=True, copies=True)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint under another name, and replace an older one when every process is done."""
        replace_whole(
            Path(self.broadcast(filepath)),
            lambda path: super(ShardedStrategy, self).save_checkpoint(checkpoint, path, storage_options),
            moves=self.is_global_zero,
            wait=self.barrier,
        )

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's states with parameter names as keys, for a checkpoint of either layout.

        Lightning would number them in the module's order, which is not that of an optimizer with groups.
        """
        options = StateDictOptions(full_state_dict=not self._save_distributed_checkpoint, cpu_offload=True)
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert self.model is not None
        return get_optimizer_state_dict(self.model, plain, options=options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load shards, each process its own part, or a file of any other strategy."""
        path = Path(self.broadcast(checkpoint_path))
        assert self.model is not None
        assert self.lightning_module is not None
        if require_whole_checkpoint(path) == "shards":
            if not self.lightning_module.strict_loading:
                return self._load_trained(path)
            return super().load_checkpoint(path, weights_only=True)
        checkpoint = read_plain(path)
        _load_raw_module_state(checkpoint.pop("state_dict"), self.model, strict=self.lightning_module.strict_loading)
        options = StateDictOptions(broadcast_from_rank0=True, full_state_dict=True)
        states = checkpoint.pop("optimizer_states") if self.optimizers else []
        for optimizer, state in zip(self.optimizers, states, strict=True):
            named = name_states(state, optimizer, self.model)
            if named["state"]:
                set_optimizer_state_dict(self.model, optimizer, optim_state_dict=named, options=options)
        return checkpoint

    def _load_trained(self, path: Path) -> dict[str, Any]:
        """Load the shards of a checkpoint that omits frozen weights."""
        assert self.model is not None
        names = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        trained = {name: value for name, value in get_model_state_dict(self.model).items() if name in names}
        dcp.load({"state_dict": trained}, storage_reader=FileSystemReader(path))
        self.model.load_state_dict(trained, strict=False)
        for number, optimizer in enumerate(self.optimizers):
            name = f"optimizer_{number}"
            state = {name: get_optimizer_state_dict(self.model, optimizer)}
            dcp.load(state, storage_reader=FileSystemReader(path))
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=state[name])
        return read_plain(path / "meta.pt")


def _communicate(sharded: Sequence[FSDPModule], *, shards: bool, copies: bool) -> None:
    """Set whether backward passes reduce gradients over shards, and over copies."""
    for module in sharded:
        module.set_requires_gradient_sync(shards, recurse=False)
        module.set_requires_all_reduce(copies, recurse=False)


def sharding_of(strategy: object) -> Sharding | None:
    """Return how the modules must shard their model for a trainer's strategy.

    None for strategies that take a whole model: those that shard nothing, and those that shard by themselves (FSDP1,
    DeepSpeed).
    """
    if isinstance(strategy, ShardedStrategy):
        return strategy.sharding()
    if isinstance(strategy, ModelParallelStrategy):
        mesh = strategy.device_mesh
        return Sharding(mesh["data_parallel"], mesh["tensor_parallel"], strategy.root_device)
    return None
