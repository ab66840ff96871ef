"""Save and restore random generators and buffers, so that a pass can be repeated with the same dropout masks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class PassState(NamedTuple):
    """State that a forward pass changes: random generators and buffers.

    Args:
        cpu: State of the CPU generator.
        accelerators: State of the generator of each accelerator.
        buffers: Pairs of a tensor that forward passes overwrite (such as BatchNorm's running statistics) and a copy of
            its values.
    """

    cpu: Tensor
    accelerators: dict[torch.device, Tensor]
    buffers: list[tuple[Tensor, Tensor]]


def capture_state(devices: Iterable[torch.device], buffers: Iterable[Tensor] = ()) -> PassState:
    """Return the states of the CPU's and the devices' random generators, and copies of `buffers`."""
    return PassState(
        cpu=torch.get_rng_state(),
        accelerators={
            device: torch.get_device_module(device).get_rng_state(device)
            for device in dict.fromkeys(devices)
            if device.type not in ("cpu", "meta")
        },
        buffers=[(buffer, buffer.detach().clone()) for buffer in buffers],
    )


def restore_state(state: PassState) -> None:
    """Set random generators and buffers to a captured state.

    >>> before = capture_state([])
    >>> first = torch.rand(3)
    >>> restore_state(before)
    >>> torch.equal(torch.rand(3), first)
    True
    """
    torch.set_rng_state(state.cpu)
    for device, generator in state.accelerators.items():
        torch.get_device_module(device).set_rng_state(generator, device)
    with torch.no_grad():
        for buffer, value in state.buffers:
            buffer.copy_(value)


@contextmanager
def preserve_state(devices: Iterable[torch.device], buffers: Iterable[Tensor] = ()) -> Iterator[PassState]:
    """Restore random generators and buffers at the end of the block; yields their initial state."""
    state = capture_state(devices, buffers)
    try:
        yield state
    finally:
        restore_state(state)
