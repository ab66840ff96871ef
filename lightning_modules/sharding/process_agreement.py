"""Comparison of all processes of a run: arguments, data and versions must be equal.

Processes that differ would train on wrong data, or wait for each other forever.
"""

import hashlib
import platform
from typing import Any

import lightning as L
import torch
import transformers

from ...datamodules.base import run_data
from ...datamodules.packing.replicas import gathered
from ..hyperparameters import flat


def require_agreement(module: L.LightningModule, trainer: L.Trainer) -> None:
    """Compare versions, the module's arguments, some of the trainer's, and the training data of all processes.

    ``started_with`` lists what is compared. Every process must call it, after the process group is initialized.

    Raises:
        ValueError: On every process; names the settings that differ and their ranks.
    """
    if differences := disagreements(gathered(started_with(module, trainer))):
        raise ValueError("the processes of this run disagree: " + "; ".join(differences))


def started_with(module: L.LightningModule, trainer: L.Trainer) -> dict[str, str]:
    """Return what must be equal on all ranks (versions, arguments, the data's fingerprint), as short texts by name."""
    settings = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "transformers": transformers.__version__,
        "trainer.max_steps": str(trainer.max_steps),
        "trainer.accumulate_grad_batches": str(trainer.accumulate_grad_batches),
        "trainer.precision": str(trainer.precision),
    }
    settings |= {f"model.{name}": _short(value) for name, value in flat(module.hparams).items()}
    data = run_data(trainer)
    if data is not None and (fingerprint := data.training_fingerprint()) is not None:
        settings["data (the beginning of the training stream)"] = fingerprint
    return settings


def disagreements(everyone: list[dict[str, str]]) -> list[str]:
    """Return a sentence for each setting that differs from rank 0's.

    >>> disagreements([{"torch": "2.13"}, {"torch": "2.12"}, {"torch": "2.13"}])
    ['torch is 2.13 on rank 0 and 2.12 on rank 1']
    """
    first, *others = everyone
    sentences = []
    for rank, other in enumerate(others, start=1):
        for name in {**first, **other}:
            here, there = first.get(name, "missing"), other.get(name, "missing")
            if here != there:
                sentences.append(f"{name} is {here} on rank 0 and {there} on rank {rank}")
    return sentences


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({_digest(text.encode())})"


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]
