"""Device and number type of a model that a command runs in one process."""

import torch

from ...datamodules.packing.replicas import process_of_job


def process_device(device: str | None) -> torch.device:
    """The device named, or by default this process's GPU, or the CPU without one."""
    if device is None:
        count = torch.cuda.device_count()  # 1 where the scheduler shows each process its own
        device = f"cuda:{process_of_job().local % count}" if count else "cpu"
    return torch.device(device)


def number_type(dtype: str) -> torch.dtype:
    """A type of torch by its name.

    Raises:
        ValueError: There is no such type.
    """
    if not isinstance(found := getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype must be a type of torch, e.g. float32 or bfloat16, got {dtype!r}")
    return found
