"""Stops training at a step whose loss or gradient is not finite, before the optimizer applies it.

The step's loss and gradient norm are read between the last backward pass and the optimizer's step. A fused optimizer
skips a bad step on the device, so that the host need not wait; both numbers are then read at the next step, checkpoint
or validation. In either case weights and optimizer states stay as they were before the step, and no checkpoint has
values that are not finite. All replicas have the same loss and norm, so they stop together.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..datamodules.finite_values import names_not_finite, not_finite
from ..datamodules.messages import some
from ..datamodules.packing.replicas import gathered, replicas
from ..datamodules.schema import RunData
from .step_dumps import WEIGHTS, StepFault, write_batches, write_fault


class Step(NamedTuple):
    """Batches, dropout seeds and examples of an optimizer step, written to files if its loss or gradient is not finite.

    Args:
        number: Number of the step, from 1.
        examples: Function that returns (task, example id) of the step's examples; called only if the training stops.
        batches: This replica's batches of the step so far.
        seeds: Dropout seed of each batch.
    """

    number: int
    examples: Callable[[], list[tuple[str, str]]]
    batches: list[Any]
    seeds: list[int]


class Unread(NamedTuple):
    """Loss and gradient norm of an optimizer step while they are copied from the device to the host.

    Args:
        step: The optimizer step.
        names: Names of the n values.
        numbers: float [n] in the host's memory, valid once the event has happened.
        event: Recorded behind the copy; None if the device is the CPU.
    """

    step: Step
    names: list[str]
    numbers: Tensor
    event: torch.cuda.Event | None


class StepGuard:
    """Keeps the batches of the current optimizer step, and stops training if its loss or gradient is not finite.

    Before it stops, it writes the batches and the weights to the folder ``not-finite-step-N``, from which ``crosstask
    replay`` computes the step again.
    """

    def __init__(self) -> None:
        self._step = Step(0, list, [], [])
        self._unread: Unread | None = None
        self.dumping = False
        """Whether a dump is being written, whose weights may be the reason for it."""

    def begin(self, number: int, data: RunData | None) -> None:
        """Start recording an optimizer step, and forget the one before.

        Args:
            number: Number of the step, from 1.
            data: Datamodule that knows the examples of the step; None for another project's.
        """
        self._step = Step(number, list if data is None else data.step_examples(), [], [])

    def note(self, batch: Any, seed: int) -> None:
        """Record a batch of the step and the seed of its dropout."""
        self._step.batches.append(batch)
        self._step.seeds.append(seed)

    def admit(self, module: L.LightningModule, values: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """Check loss and gradient norm just before an optimizer's step; every process must call it with equal values.

        A fused optimizer is given a flag with which it skips a bad step on the device. The host reads the values at the
        next call of ``admit`` or ``read``, so that it need not wait.

        Args:
            module: The module in training.
            values: Scalars by name, such as "loss" and "gradient norm".
            optimizer: The optimizer that is about to take its step.

        Raises:
            ValueError: The values are not finite; those of a fused optimizer's step are reported at the next call of
                ``admit`` or ``read``. The step's batches and the weights are written to files first.
        """
        self.read(module)
        numbers = stacked(values)
        if not all(group.get("fused") for group in optimizer.param_groups):
            self._require(module, self._step, dict(zip(values, numbers.tolist(), strict=True)))
            return
        optimizer.found_inf = (~numbers.isfinite().all()).float()  # type: ignore[attr-defined]  # torch's own scaler, too
        arrived = numbers.to("cpu", non_blocking=True)
        event = torch.cuda.Event() if numbers.is_cuda else None
        if event is not None:
            event.record()
        self._unread = Unread(self._step, list(values), arrived, event)

    def read(self, module: L.LightningModule) -> None:
        """Check loss and gradient norm of a fused optimizer's last step, unless ``admit`` or ``read`` has checked them.

        Every process must call it.

        Raises:
            ValueError: They are not finite: the optimizer has skipped the step on the device. The step's batches and
                the weights are written to files first.
        """
        if self._unread is None:
            return
        (step, names, numbers, event), self._unread = self._unread, None
        if event is not None:
            event.synchronize()
        self._require(module, step, dict(zip(names, numbers.tolist(), strict=True)))

    def require_finite(self, module: L.LightningModule, values: Mapping[str, Tensor | float]) -> None:
        """Stop training unless the losses and norms of the step are finite; every process must pass equal values.

        Raises:
            ValueError: One is not finite. Names the step, the values, the examples, and the folder to which the step's
                batches and the weights are written first.
        """
        numbers = {name: float(value) for name, value in values.items()}
        self._require(module, self._step, numbers)

    def _require(self, module: L.LightningModule, step: Step, numbers: dict[str, float]) -> None:
        if not all(map(math.isfinite, numbers.values())):
            self.stop(module, numbers, step=step)

    def stop(
        self, module: L.LightningModule, numbers: dict[str, float], reason: str = "", step: Step | None = None
    ) -> NoReturn:
        """Write a step's batches and weights to a folder and stop training; every process must call it.

        Args:
            module: The module in training.
            numbers: Losses and norms of the step, by name.
            reason: Further sentence for the error message.
            step: The step; None for the current one.

        Raises:
            ValueError: Always.
        """
        step, folder = step or self._step, _folder(module.trainer)
        fault = _describe(module, step, numbers)
        poisoned = _everywhere(names_not_finite(module.named_parameters()))
        reasons = _everywhere([reason] if reason else [])
        if poisoned:
            reasons.append(f"Weights were not finite before it: {some(poisoned)}")
        raise ValueError(". ".join([fault.sentence(), *reasons, self._dump(module, step, fault, folder)]))

    def _dump(self, module: L.LightningModule, step: Step, fault: StepFault, folder: Path) -> str:
        """Write the dump, each process its part; return a sentence that names it."""
        folder = folder / f"not-finite-step-{fault.step}"
        trainer, error = module.trainer, ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"part-{trainer.global_rank}"
            write_batches(part, step.batches, step.seeds)
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


def _describe(module: L.LightningModule, step: Step, numbers: dict[str, float]) -> StepFault:
    keeps = not isinstance(module.trainer.strategy, DeepSpeedStrategy)  # it applies steps by itself
    return StepFault(
        step=step.number,
        values=numbers,
        examples=step.examples(),
        module=type(module).__name__,
        precision=str(module.trainer.precision),
        weights=WEIGHTS if keeps else _last_checkpoint(module.trainer),
    )


def gradient_norm(parameters: Iterable[Parameter]) -> Tensor:
    """Return the norm of the gradients over all their shards, as a tensor on their device; 0 without gradients."""
    total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return total.full_tensor() if isinstance(total, DTensor) else total


def optimizer_tensors(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in an optimizer's states, with names for messages."""
    for place, state in enumerate(optimizer.state.values()):
        yield from (
            (f"{name} of parameter {place}", value) for name, value in state.items() if isinstance(value, Tensor)
        )


def require_finite_everywhere(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Reject tensors that are not finite on any process; every process must call it, and all raise the same error.

    Args:
        tensors: This process's tensors, each as (name, tensor).
        where: The model or file that holds them, for the message.

    Raises:
        ValueError: A tensor has NaN or infinity. Names the first ones.
    """
    if names := _everywhere(names_not_finite(tensors)):
        raise ValueError(not_finite(where, names))


def stacked(values: Mapping[str, Tensor]) -> Tensor:
    """Return n scalars as one tensor [n] on the device of the first: float64 if one of them is, else float32."""
    tensors = [value.detach() for value in values.values()]
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return torch.stack([tensor.to(tensors[0].device, dtype).reshape(()) for tensor in tensors])


def _everywhere(items: list[str]) -> list[str]:
    """Return the distinct items of all processes; every process must call it."""
    return list(dict.fromkeys(item for part in gathered(items) for item in part))


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.log_dir or trainer.default_root_dir)


def _last_checkpoint(trainer: L.Trainer) -> str | None:
    """Return the newest checkpoint that the run has written, or None."""
    writers = [writer for writer in trainer.checkpoint_callbacks if isinstance(writer, ModelCheckpoint)]
    return next((path for writer in writers if (path := writer.last_model_path or writer.best_model_path)), None)
