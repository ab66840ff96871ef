"""Device and number type of a model that a command runs in one process."""

import torch

from ..datamodules.packing.replicas import process_of_job


def process_device(device: str | None) -> torch.device:
    """Return the named device; for None this process's GPU, or the CPU without one."""
    if device is None:
        count = torch.cuda.device_count()  # 1 where the scheduler shows each process its own
        device = f"cuda:{process_of_job().local % count}" if count else "cpu"
    return torch.device(device)


def number_type(dtype: str) -> torch.dtype:
    """Return torch's type with this name, e.g. "bfloat16".

    Raises:
        ValueError: There is no such type.
    """
    if not isinstance(found := getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype must be a type of torch, e.g. float32 or bfloat16, got {dtype!r}")
    return found


def scoring_dtype(device: torch.device) -> torch.dtype:
    """Return the default type of a scorer's weights: on CUDA the packed attention kernel needs half precision.

    >>> scoring_dtype(torch.device("cuda")), scoring_dtype(torch.device("cpu"))
    (torch.bfloat16, torch.float32)
    """
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def scorer_type(dtype: str | None, device: str | None) -> str:
    """Return the name of the type of a scorer's weights: `dtype` if it is given, else the default of the device.

    >>> scorer_type(None, "cuda:1"), scorer_type(None, "cpu"), scorer_type("float32", "cuda:1")
    ('bfloat16', 'float32', 'float32')
    """
    return dtype or str(scoring_dtype(process_device(device))).removeprefix("torch.")
