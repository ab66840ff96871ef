"""Training stops at a step whose loss or gradient is not finite, before the optimizer applies it.

The loss of the step and the norm of its gradient are read together, once an optimizer step, between the last backward
pass and the optimizer. Weights and optimizer states are then those before the step: nothing that is not finite reaches
them, and no checkpoint can hold it. All replicas have the same loss and norm, so that they stop together.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..datamodules.base import run_data
from ..datamodules.finite_values import names_not_finite, not_finite
from ..datamodules.messages import some
from ..datamodules.packing.replicas import replicas
from .step_dumps import WEIGHTS, StepFault, write_batches, write_fault


class StepGuard:
    """Keeps the batches of the current optimizer step, and stops at a step that is not finite."""

    def __init__(self) -> None:
        self._step, self._batches, self._seeds = 0, list[Any](), list[int]()
        self.dumping = False
        """Whether a dump is being written, whose weights may be the reason for it."""

    def begin(self, step: int) -> None:
        """Begin an optimizer step, counted from 1."""
        self._step, self._batches, self._seeds = step, [], []

    def note(self, batch: Any, seed: int) -> None:
        """Note a batch of the step and the seed of its dropout."""
        self._batches.append(batch)
        self._seeds.append(seed)

    def require_finite(self, module: L.LightningModule, values: Mapping[str, Tensor | float]) -> None:
        """Require the losses and norms of a step to be finite; every process must call it with equal values.

        Raises:
            ValueError: One is not. Names the step, the values, the examples and the dump.
        """
        numbers = _read(values)
        if not all(map(math.isfinite, numbers.values())):
            self.stop(module, numbers)

    def stop(self, module: L.LightningModule, numbers: dict[str, float], reason: str = "") -> NoReturn:
        """Dump the step and stop; every process must call it.

        Args:
            module: The module in training.
            numbers: What was computed, by name.
            reason: What else is known.

        Raises:
            ValueError: Always.
        """
        fault, folder = self._describe(module, numbers), _folder(module.trainer)
        poisoned = _everywhere(names_not_finite(module.named_parameters()))
        reasons = _everywhere([reason] if reason else [])
        if poisoned:
            reasons.append(f"Weights were not finite before it: {some(poisoned)}")
        raise ValueError(". ".join([fault.sentence(), *reasons, self._dump(module, fault, folder)]))

    def _describe(self, module: L.LightningModule, numbers: dict[str, float]) -> StepFault:
        data = run_data(module.trainer)
        keeps = not isinstance(module.trainer.strategy, DeepSpeedStrategy)  # it applies steps by itself
        return StepFault(
            step=self._step,
            values=numbers,
            examples=[] if data is None else data.step_examples(),
            module=type(module).__name__,
            precision=str(module.trainer.precision),
            weights=WEIGHTS if keeps else _last_checkpoint(module.trainer),
        )

    def _dump(self, module: L.LightningModule, fault: StepFault, folder: Path) -> str:
        """Write the dump, every process its part; returns the sentence that names it."""
        folder = folder / f"not-finite-step-{fault.step}"
        trainer, error = module.trainer, ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"part-{trainer.global_rank}"
            write_batches(part, self._batches, self._seeds)
            part.rename(folder / f"batches-{replicas(trainer).rank:05d}.pt")
            if trainer.is_global_zero:
                write_fault(folder, fault)
        except OSError as failure:
            error = str(failure)
        if errors := _everywhere([error] if error else []):
            return f"It could not be dumped: {errors[0]}"
        if fault.weights == WEIGHTS:
            self.dumping = True
            trainer.save_checkpoint(folder / WEIGHTS, weights_only=True)
            self.dumping = False
        return f"`crosstask replay {folder}` runs it again alone"


def gradient_norm(parameters: Iterable[Parameter]) -> Tensor:
    """The norm of the gradients over all their shards, a tensor on their device; 0 without gradients."""
    total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return total.full_tensor() if isinstance(total, DTensor) else total


def optimizer_tensors(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The states of an optimizer that are tensors, by names for messages."""
    for place, state in enumerate(optimizer.state.values()):
        yield from (
            (f"{name} of parameter {place}", value) for name, value in state.items() if isinstance(value, Tensor)
        )


def require_finite_everywhere(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Reject weights that are not finite on any process; every process must call it, and all raise the same error.

    Raises:
        ValueError: Names the first of them.
    """
    if names := _everywhere(names_not_finite(tensors)):
        raise ValueError(not_finite(where, names))


def _read(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Numbers from tensors, in one transfer."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if not tensors:
        return {name: float(value) for name, value in values.items()}
    device = next(iter(tensors.values())).device
    read = torch.stack([value.detach().to(device, torch.float64).reshape(()) for value in tensors.values()]).tolist()
    numbers = dict(zip(tensors, read, strict=True))
    return {name: numbers[name] if name in numbers else float(value) for name, value in values.items()}


def _everywhere(items: list[str]) -> list[str]:
    """The items of all processes, each once; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return items
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, items)
    return list(dict.fromkeys(item for part in gathered for item in part))


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.log_dir or trainer.default_root_dir)


def _last_checkpoint(trainer: L.Trainer) -> str | None:
    """The newest checkpoint that the run has written."""
    writers = [writer for writer in trainer.checkpoint_callbacks if isinstance(writer, ModelCheckpoint)]
    return next((path for writer in writers if (path := writer.last_model_path or writer.best_model_path)), None)
