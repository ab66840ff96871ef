"""Sequence parallelism: within blocks, each process of a tensor-parallel group has a part of every row's columns.

Tensor parallelism alone keeps residual stream, norms and dropout whole on every process. Here they are divided by
columns. The inputs of an attention or feed-forward layer are gathered, and its partial results are summed and divided
in one reduce-scatter (Korthikanti et al., arXiv 2205.05198, section 4.2.2). Attention reads whole rows, so that packed
rows and document attention do not change.
"""

# B rows, L columns, n processes, D columns of a hidden state

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle, RowwiseParallel


class SequenceShards:
    """Hooks that divide the residual stream of an encoder or decoder by columns over a tensor-parallel group.

    The first block divides its input, and the last one gathers its output. A forward whose columns cannot be divided
    equally is rejected in training, and not divided in evaluation, e.g. when one token is generated.

    Args:
        model: The whole model.
        mesh: The processes, a one-dimensional mesh.
        blocks: The blocks of the encoder or decoder, in order.
        plan: Style of each module whose parameters are divided, by its full name.
    """

    def __init__(
        self, model: nn.Module, mesh: DeviceMesh, blocks: Sequence[nn.Module], plan: Mapping[str, str]
    ) -> None:
        self.mesh, self._plan = mesh, plan
        self._tokens = 0  # B * L while rows are divided
        self._shapes: dict[nn.Module, torch.Size] = {}
        self._blocks = [f"{name}." for name, module in model.named_modules() if module in blocks]
        blocks[0].register_forward_pre_hook(self._divide, with_kwargs=True)
        blocks[-1].register_forward_hook(self._join)
        matrices = [name for name, style in plan.items() if style == "colwise" and ".lora_" not in name]
        self._layers = {self._layer(name) for name in matrices if self._has(name)}
        for name in self._layers:
            model.get_submodule(name).register_forward_pre_hook(self._gather, with_kwargs=True)

    def prepared(self, name: str, module: nn.Module, style: ParallelStyle) -> ParallelStyle:
        """Add the hooks that a module needs where rows are divided by columns, and return its tensor-parallel style.

        Norms within a block get hooks, since they read this process's tokens alone. The last matrix of an attention or
        feed-forward layer gets another style, which sums its partial results by a reduce-scatter.

        Args:
            name: Full name of the module.
            module: The module, before its parameters are divided.
            style: Its style under tensor parallelism alone.
        """
        if self._plan.get(name) == "rowwise" and self._has(name):
            return _DividedSums(self._reduce)
        if self._reads_part(name):
            module.register_forward_pre_hook(self._take_tokens)
            module.register_forward_hook(self._give_rows)
        return style

    def _reads_part(self, name: str) -> bool:
        """Return whether a module is between attention and feed-forward layers, or adapts their last matrix."""
        if not self._has(name):
            return False
        matrix, _, adapter = name.partition(".lora_B.")
        if adapter and self._plan.get(f"{matrix}.base_layer") == "rowwise":
            return True
        return not any(f"{name}.".startswith(f"{layer}.") for layer in self._layers)

    def _has(self, name: str) -> bool:
        return name.startswith(tuple(self._blocks))

    def _layer(self, name: str) -> str:
        """Return the module whose input is gathered for a matrix: its attention or feed-forward layer, or itself."""
        plain = name.removesuffix(".base_layer")
        parent = plain.rpartition(".")[0]
        return plain if f"{parent}." in self._blocks else parent

    def _divide(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hidden, size = _hidden(args, kwargs), self.mesh.size()
        rows, columns = hidden.shape[:2]
        self._tokens = 0 if columns % size else rows * columns
        if self._tokens:
            whole = DTensor.from_local(hidden, self.mesh, [Replicate()], run_check=False)
            return _with_hidden(whole.redistribute(placements=[Shard(1)]).to_local(), args, kwargs)
        if block.training:
            raise ValueError(
                f"sequence_parallel cannot divide rows of {columns} columns over {size} processes: set the rows' "
                f"length to a multiple of tensor_parallel_size = {size}, or sequence_parallel to false"
            )
        return args, kwargs

    def _join(self, _: nn.Module, inputs: Any, output: Any) -> Any:
        if not self._tokens:
            return output
        whole = self._whole(output[0] if isinstance(output, tuple) else output).to_local()
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    def _gather(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        # It stays a DTensor, so that the gradients of all matrices that read it are summed by one reduce-scatter.
        return _with_hidden(self._whole(_hidden(args, kwargs)), args, kwargs) if self._tokens else (args, kwargs)

    def _reduce(self, _: nn.Module, inputs: Any, sums: DTensor) -> Tensor:
        return sums.redistribute(placements=[_by_columns(sums) if self._tokens else Replicate()]).to_local()

    def _take_tokens(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (hidden,) = inputs
        if not self._tokens:
            return inputs
        count = hidden.shape[:-1].numel()
        if count * self.mesh.size() != self._tokens:
            raise ValueError(
                f"{type(module).__name__} got {count} tokens, and not a {self.mesh.size()}th of {self._tokens}: "
                "sequence parallelism does not know where this model gathers rows, set sequence_parallel to false"
            )
        self._shapes[module] = hidden.shape[:-1]
        return (DTensor.from_local(hidden.flatten(0, -2), self.mesh, [Shard(0)], run_check=False),)

    def _give_rows(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output.to_local().unflatten(0, self._shapes[module]) if self._tokens else output

    def _whole(self, hidden: Tensor) -> DTensor:
        part = DTensor.from_local(hidden, self.mesh, [_by_columns(hidden)], run_check=False)
        return part.redistribute(placements=[Replicate()])


def stacks(model: nn.Module, blocks: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Return the blocks of each of a model's stacks, e.g. of an encoder and of a decoder."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    found = [[child for child in module if child in blocks] for module in lists]
    return [stack for stack in found if stack]


class _DividedSums(RowwiseParallel):
    """Style of a matrix that is divided by inputs, whose partial results a hook sums."""

    def __init__(self, reduce: Callable[[nn.Module, Any, DTensor], Tensor]) -> None:
        super().__init__(output_layouts=Partial(), use_local_output=False)
        self._reduce = reduce

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module = super()._apply(module, device_mesh)
        module.register_forward_hook(self._reduce)
        return module


def _by_columns(hidden: Tensor) -> Shard:
    """Return the division of [B, L, D] by columns, or of [B * L, D] by tokens (OPT's feed-forward layers)."""
    return Shard(hidden.ndim - 2)


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _with_hidden(hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
