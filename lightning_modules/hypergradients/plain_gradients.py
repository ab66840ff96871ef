"""Gradients of a loss without side effects, in float32, and with current values of sharded parameters."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import Parameter
from torch.nn.modules.module import register_module_forward_pre_hook

from .parameter_vectors import Reduce, Vector, is_dtensor


def gradients(loss: Tensor, parameters: Sequence[Parameter], *, create_graph: bool = False) -> list[Tensor | None]:
    """Return d loss / d parameters without changing any ``.grad``; None for parameters the loss does not depend on.

    FSDP2 returns gradients through ``.grad`` only: for sharded parameters, ``.grad`` is saved and restored.
    """
    if not loss.requires_grad:
        return [None] * len(parameters)
    if not any(is_dtensor(parameter) for parameter in parameters):
        return list(torch.autograd.grad(loss, parameters, create_graph=create_graph, allow_unused=True))
    saved = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        return [parameter.grad for parameter in parameters]
    finally:
        for parameter, grad in zip(parameters, saved, strict=True):
            parameter.grad = grad


def averaged(vector: Vector, reduce: Reduce) -> Vector:
    """Return the mean of a vector over replicas.

    `reduce` averages unsharded tensors; FSDP2 has already averaged the sharded ones.
    """
    unsharded = [tensor for tensor in vector if not is_dtensor(tensor)]
    means = iter(reduce(unsharded) if unsharded else unsharded)
    return [tensor if is_dtensor(tensor) else next(means) for tensor in vector]


def zeros_where_none(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Vector:
    """Return the gradients, detached, with zeros in place of None."""
    return [
        torch.zeros_like(parameter.detach()) if tensor is None else tensor.detach()
        for tensor, parameter in zip(gradients, parameters, strict=True)
    ]


def scalar(name: str, loss: Tensor) -> Tensor:
    """Return the loss as a tensor without dimensions.

    Raises:
        ValueError: It has more than one element.
    """
    if loss.numel() != 1:
        raise ValueError(f"{name} must return a scalar, got a tensor of shape {tuple(loss.shape)}")
    return loss.reshape(())


def summed_gradients(
    name: str, losses: Sequence[Callable[[], Tensor]], parameters: Sequence[Parameter]
) -> tuple[float, list[Tensor | None]]:
    """Return the sum of the losses and its gradients, with one loss's graph in memory at a time.

    Args:
        name: Name of the losses in error messages.
        losses: Functions that each return a scalar.
        parameters: Parameters to differentiate with respect to. The gradient is None for those that no loss uses.
    """
    total = 0.0
    sums: list[Tensor | None] = [None] * len(parameters)
    for loss in losses:
        value = scalar(name, loss())
        slopes = gradients(value, parameters)
        total += value.item()
        del value
        for index, slope in enumerate(slopes):
            so_far = sums[index]
            # Not in place: autograd may return one tensor for two parameters.
            sums[index] = slope if so_far is None else so_far if slope is None else so_far + slope
            slopes[index] = None
    return total, sums


@contextmanager
def frozen(parameters: Sequence[Parameter]) -> Iterator[None]:
    """Set ``requires_grad`` of these parameters to False inside the block."""
    saved = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, required in zip(parameters, saved, strict=True):
            parameter.requires_grad_(required)


@contextmanager
def resharded(theta: Sequence[Parameter]) -> Iterator[None]:
    """Reshard every FSDP2 module before its first forward inside the block, and at the end of the block.

    FSDP2 gathers a module only if it is not gathered yet, and a module stays gathered after a forward whose backward
    does not reach it. Without this, the next pass would silently compute with the values of the previous one.
    """
    if not any(is_dtensor(parameter) for parameter in theta):
        yield
        return
    seen: dict[FSDPModule, None] = {}

    def reshard_before_first_forward(module: nn.Module, _: object) -> None:
        # Not before later forwards: a checkpoint recomputes a module during backward, where it must stay gathered.
        if isinstance(module, FSDPModule) and module not in seen:
            seen[module] = None
            module.reshard()

    handle = register_module_forward_pre_hook(reshard_before_first_forward)
    try:
        yield
    finally:
        handle.remove()
        for module in seen:
            module.reshard()


@contextmanager
def full_precision(devices: Sequence[torch.device]) -> Iterator[None]:
    """Within the block, compute in float32: no autocast, and no TF32 or bfloat16 inside matrix products.

    Tensors keep their types. Autocast is switched off on the CPU and on the types of `devices`.
    """
    kinds = dict.fromkeys(["cpu", *(device.type for device in devices)])
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    saved = [backend.fp32_precision for backend in backends]
    try:
        overall: str | None = torch.get_float32_matmul_precision()
    except RuntimeError:  # the backends have different settings, which have no common name
        overall = None
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            if overall is not None:
                torch.set_float32_matmul_precision(overall)
            for backend, precision in zip(backends, saved, strict=True):
                backend.fp32_precision = precision
