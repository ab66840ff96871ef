"""Computes a dumped step again in one process, and finds the first module whose output is not finite."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..datamodules.finite_values import names_not_finite
from .module_loading import load_module
from .nonfinite_stop import gradient_norm
from .planned_training import PlannedTraining
from .step_dumps import BATCHES, WEIGHTS, StepFault, read_batches, read_fault


@dataclass(frozen=True)
class Replay:
    """Losses, gradient norms and the first wrong module of a failed optimizer step that was computed again.

    Args:
        fault: Description of the step as the run computed it.
        losses: Losses of the whole step over all replicas' batches, by name.
        norms: Gradient norm of each loss, by name.
        batches: Each batch as (file of its replica, losses by name).
        weights: Names of the weights that were not finite before the step.
        module: Name of the first module, in the order of computation, whose output is not finite; None if all are
            finite.
        batch: Number of the batch in which that happens, from 1; None if all are finite.
    """

    fault: StepFault
    losses: dict[str, float]
    norms: dict[str, float]
    batches: list[tuple[str, dict[str, float]]]
    weights: list[str]
    module: str | None
    batch: int | None

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        yielded = [f"In the run, {self.fault.sentence()}."]
        yielded += [f"{name}: {loss:.6g}, gradient norm {self.norms[name]:.6g}" for name, loss in self.losses.items()]
        for number, (part, losses) in enumerate(self.batches, start=1):
            yielded.append(f"batch {number} ({part}): " + ", ".join(f"{name} {x:.6g}" for name, x in losses.items()))
        if self.weights:
            yielded.append(f"weights that are not finite before the step: {', '.join(self.weights)}")
        if self.module is not None:
            yielded.append(f"first module whose output is not finite: {self.module} (batch {self.batch})")
        elif all(map(torch.isfinite, map(torch.tensor, [*self.losses.values(), *self.norms.values()]))):
            yielded.append(
                "all values are finite here: the run's own were not, on another device or by another library"
            )
        return yielded


def replay_step(folder: Path, *, weights: Path | None = None, device: str = "cpu") -> Replay:
    """Compute the losses and gradients of a failed optimizer step again, in one process; weights are not changed.

    Training writes the dump of a step whose loss or gradient is not finite. The gradient is that of the whole step,
    summed over the batches of all replicas. Dropout masks are those of the run if the device is of the same kind.

    Args:
        folder: Folder of the dump, ``not-finite-step-N``.
        weights: Checkpoint of the weights before the step; None for those in the dump.
        device: Device to compute on, e.g. "cuda".

    Raises:
        ValueError: The folder is no dump, or there are no weights.
    """
    fault, batches = read_fault(folder), read_batches(folder)
    module = _module(fault, _weights(folder, fault, weights)).to(torch.device(device))
    poisoned = names_not_finite(module.named_parameters())
    sums, norms, parts, first = dict[str, float](), dict[str, float](), list[tuple[str, dict[str, float]]](), None
    gradients: dict[str, list[Tensor | None]] = {}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for number, (part, seed, batch) in enumerate(batches, start=1):
        torch.manual_seed(seed)
        with _watched(module) as outputs, _precision(fault.precision, device):
            losses = module.batch_losses(_on(batch, module.device))
        if outputs and first is None:
            first = outputs[0], number
        for name, loss in losses.items():
            of_batch = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
            before = gradients.get(name, [None] * len(trained))
            gradients[name] = [
                b if g is None else g if b is None else b + g for g, b in zip(of_batch, before, strict=True)
            ]
            sums[name] = sums.get(name, 0.0) + loss.item()
        parts.append((part, {name: loss.item() for name, loss in losses.items()}))
    for name, values in gradients.items():
        for parameter, gradient in zip(trained, values, strict=True):
            parameter.grad = gradient
        norms[name] = gradient_norm(trained).item()
    return Replay(fault, sums, norms, parts, poisoned, *(first or (None, None)))


def _weights(folder: Path, fault: StepFault, weights: Path | None) -> Path:
    if weights is not None:
        return weights
    if fault.weights == WEIGHTS:
        return folder / WEIGHTS
    raise ValueError(
        f"{folder} holds no weights, since DeepSpeed had applied the step already: give a checkpoint by --weights; the "
        f"last one of the run was {fault.weights}"
    )


def _module(fault: StepFault, weights: Path) -> PlannedTraining:
    """Return the module of a dump with its weights, in training mode and the run's precision."""
    module = load_module(fault.module, weights)
    dtypes = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
    return module.to(dtypes.get(fault.precision, next(module.parameters()).dtype)).train()


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[str]]:
    """Yield a list that receives the names of modules whose outputs are not finite, in the order of computation."""
    names: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if names_not_finite((name, tensor) for tensor in _tensors(output)):
                names.append(name)

        return hook

    hooks = [part.register_forward_hook(watch(name)) for name, part in module.named_modules() if name]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from (tensor for value in output.values() for tensor in _tensors(value))
    elif isinstance(output, tuple | list):
        yield from (tensor for value in output for tensor in _tensors(value))


def _precision(precision: str, device: str) -> AbstractContextManager[Any]:
    if precision.endswith("-mixed"):
        dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float16
        return torch.autocast(torch.device(device).type, dtype)
    return nullcontext()


def _on(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if type(batch).__name__ in BATCHES:
        return type(batch)(*(_on(part, device) for part in batch))
    return batch
