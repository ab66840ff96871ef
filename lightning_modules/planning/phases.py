"""Phases of a training step, and the peak memory of a device in each.

A step has one phase for the forward pass of every block, one for its backward pass, and one for the optimizer. What
runs before the first block belongs to that block's forward phase, the head to the last block's, and what runs at the
end to the first block's backward phase. Which phase has the overall peak changes with the model's depth, but the memory
of one phase grows linearly with it. The memory of a deep model is therefore extrapolated, phase by phase, from two
shallow models.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker, _State


class Memory(NamedTuple):
    """Bytes on one device at one moment, by kind; ``total`` is their sum.

    Args:
        weights: Parameters that the device stores: its shard, or all of them if the model is not sharded.
        gradients: Gradients that the device stores at this moment, of the same parameters.
        optimizer: Adam's moments that the device stores, and float32 copies of the parameters.
        gathered: Blocks gathered from all shards, and buffers of collectives.
        activations: Activations kept for the backward pass, logits, and temporary tensors; in the optimizer's step,
            temporary copies of parameters or gradients.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


class Phase(NamedTuple):
    """A part of a training step: the forward or the backward pass of one block, or the optimizer's step.

    Args:
        part: "forward", "backward" or "step" (optimizer).
        place: Index of the block, counted from the nearer end of the model: 0, 1 ... -2, -1.
    """

    part: Literal["forward", "backward", "step"]
    place: int = 0


Phases = Mapping[Phase, Memory]
"""Peak memory in each phase of a step."""

Measure = Callable[[Mapping[str, int]], Memory]
"""Function from the memory tracker's counts (bytes by kind of tensor) to the ``Memory`` of one device."""


def most(phases: Phases) -> Memory:
    """Return the peak memory of a whole step: that of the phase with the largest total."""
    return max(phases.values(), key=lambda memory: memory.total)


def deeper(few: Phases, more: Phases, *, further: float) -> Phases:
    """Return the peak memory of a deep model in each phase, extrapolated linearly from two shallow models.

    The deep model has further phases between those of `few`; each needs an amount between its neighbours'.

    Args:
        few: Peak memory in each phase of the shallower model.
        more: Peak memory in each phase of a model with a few more blocks.
        further: Blocks of the deep model beyond those of the shallower model, divided by the blocks of the model of
            `more` beyond those of the shallower model.

    >>> few = {Phase("forward"): Memory(4, 0, 8, 1, 0), Phase("forward", -1): Memory(4, 0, 8, 0, 2)}
    >>> more = {Phase("forward"): Memory(6, 0, 12, 1, 0), Phase("forward", -1): Memory(6, 0, 12, 0, 3)}
    >>> most(deeper(few, more, further=2))
    Memory(weights=8, gradients=0, optimizer=16, gathered=0, activations=4)
    """
    return {
        phase: Memory(*(round(a + (b - a) * further) for a, b in zip(least, more[phase], strict=True)))
        for phase, least in few.items()
    }


class PhaseRecord:
    """Peak memory of a device in each phase of a training step: forward and backward of each block, and the optimizer.

    torch's memory tracker calls ``update`` whenever a tensor is allocated or freed. The memory of the largest total is
    kept for each phase, in ``held``.

    Args:
        blocks: Transformer blocks of the model, in the order of the forward pass. Hooks on them notice the phase.
        measure: Function from the tracker's counts (bytes by kind: parameters, gradients, activations ...) to the
            `Memory` of one device.
    """

    def __init__(self, blocks: Sequence[nn.Module], measure: Measure) -> None:
        self.measure, self.now = measure, Phase("forward")
        self.held: dict[Phase, Memory] = {}
        for number, block in enumerate(blocks):
            place = number if number < len(blocks) // 2 else number - len(blocks)
            block.register_forward_pre_hook(partial(self._forward, place))
            block.register_forward_hook(partial(self._watch, place))

    def update(self, snapshot: Mapping[Any, int]) -> None:
        """Record the bytes by kind that are allocated now, if their total is the phase's largest so far."""
        memory = self.measure({kind.value if isinstance(kind, Enum) else kind: size for kind, size in snapshot.items()})
        if self.now not in self.held or memory.total > self.held[self.now].total:
            self.held[self.now] = memory

    def _forward(self, place: int, block: nn.Module, inputs: Any) -> None:
        if self.now.part == "forward":  # a block that is recomputed belongs to its backward phase
            self.now = Phase("forward", place)

    def _watch(self, place: int, block: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if self.now.part == "forward" and hidden.requires_grad:
            hidden.register_hook(partial(self._backward, place))

    def _backward(self, place: int, gradient: Tensor) -> None:
        self.now = Phase("backward", place)


class PhaseTracker(MemTracker):
    """torch's memory tracker, which passes every change to a ``PhaseRecord`` instead of keeping peaks by module."""

    record: PhaseRecord | None = None

    def _update_peak_stats(self, peak_state: _State) -> None:
        assert self.record is not None
        for snapshot in self._curr_mem_snap.values():
            self.record.update(snapshot)


class ShardedPhaseTracker(PhaseTracker, FSDPMemTracker):
    """torch's memory tracker for models sharded by FSDP2, which passes every change to a ``PhaseRecord``."""
