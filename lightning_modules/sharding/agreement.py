"""Whether all processes of a run were started alike: the same arguments, data and versions.

Processes that disagree train on something nobody asked for, or wait for each other forever.
"""

import hashlib
import platform
from typing import Any

import lightning as L
import torch
import transformers
from torch import distributed as dist

from ...datamodules.base import run_data


def require_agreement(module: L.LightningModule, trainer: L.Trainer) -> None:
    """Compare what processes were started with; every process must call it, once they can talk to each other.

    Raises:
        ValueError: On every process, with what differs and on which ranks.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, started_with(module, trainer))
    if differences := disagreements(everyone):
        raise ValueError("the processes of this run disagree: " + "; ".join(differences))


def started_with(module: L.LightningModule, trainer: L.Trainer) -> dict[str, str]:
    """What must be equal on all ranks, by name, in short texts."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "transformers": transformers.__version__,
        "trainer.max_steps": str(trainer.max_steps),
        "trainer.accumulate_grad_batches": str(trainer.accumulate_grad_batches),
        "trainer.precision": str(trainer.precision),
    }
    found |= {f"model.{name}": _short(value) for name, value in vars(module).items() if _is_plain(value)}
    data = run_data(trainer)
    if data is not None and (fingerprint := data.training_fingerprint()) is not None:
        found["data (the beginning of the training stream)"] = fingerprint
    return found


def disagreements(everyone: list[dict[str, str]]) -> list[str]:
    """Sentences on what differs from rank 0.

    >>> disagreements([{"torch": "2.13"}, {"torch": "2.12"}, {"torch": "2.13"}])
    ['torch is 2.13 on rank 0 and 2.12 on rank 1']
    """
    first, *others = everyone
    found = []
    for rank, other in enumerate(others, start=1):
        for name in {**first, **other}:
            here, there = first.get(name, "missing"), other.get(name, "missing")
            if here != there:
                found.append(f"{name} is {here} on rank 0 and {there} on rank {rank}")
    return found


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | tuple | dict)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({_digest(text.encode())})"


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]
