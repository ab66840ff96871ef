"""The phases of a training step, and the most that a device holds in each.

A step has one phase for every block's forward pass and one for every block's backward pass; what comes before the first
block belongs to its forward phase, the head to the last block's, and what comes after everything to the first block's
backward phase. Which phase decides changes with the depth, but all moments of one phase grow alike with it: so the
memory of a deep model follows from those of two shallow ones, phase by phase.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker, _State


class Memory(NamedTuple):
    """Bytes on one device at one moment; ``total`` is their sum.

    Args:
        weights: Its part of the parameters.
        gradients: Its part of their gradients, as far as they exist.
        optimizer: Its part of Adam's moments, and of float32 copies of the parameters.
        gathered: Whole blocks, gathered from other devices' parts, and buffers of collectives.
        activations: What the backward pass needs of the forward pass, logits, and what is needed for a moment.
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
    """A part of a step.

    Args:
        part: The pass, or the optimizer's step.
        place: The block's, counted from the nearer end as Python counts: 0, 1 ... -2, -1.
    """

    part: Literal["forward", "backward", "step"]
    place: int = 0


Phases = Mapping[Phase, Memory]
"""The most that is held in each phase of a step."""

Measure = Callable[[Mapping[str, int]], Memory]
"""What a device holds, from the tracker's bytes by kind."""


def most(phases: Phases) -> Memory:
    """What is held when most is."""
    return max(phases.values(), key=lambda memory: memory.total)


def deeper(few: Phases, more: Phases, *, further: float) -> Phases:
    """The phases of a model that is deeper than `few` by `further` times what `more` is deeper than it.

    Between the phases of `few`, a deep model has only such as hold something between their neighbours.

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
    """Keeps the most that is held in each phase, while a tracker calls ``see`` at every moment.

    Args:
        blocks: Of the model, in the order of its forward pass.
        measure: What is held.
    """

    def __init__(self, blocks: Sequence[nn.Module], measure: Measure) -> None:
        self.measure, self.now = measure, Phase("forward")
        self.held: dict[Phase, Memory] = {}
        for number, block in enumerate(blocks):
            place = number if number < len(blocks) // 2 else number - len(blocks)
            block.register_forward_pre_hook(partial(self._forward, place))
            block.register_forward_hook(partial(self._watch, place))

    def see(self, snapshot: Mapping[Any, int]) -> None:
        found = self.measure({kind.value if isinstance(kind, Enum) else kind: size for kind, size in snapshot.items()})
        if self.now not in self.held or found.total > self.held[self.now].total:
            self.held[self.now] = found

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
    """Shows every moment to a record, in place of the peaks that torch keeps by module."""

    record: PhaseRecord | None = None

    def _update_peak_stats(self, peak_state: _State) -> None:
        assert self.record is not None
        for snapshot in self._curr_mem_snap.values():
            self.record.see(snapshot)


class ShardedPhaseTracker(PhaseTracker, FSDPMemTracker):
    """The same for a model that FSDP2 has cut."""
