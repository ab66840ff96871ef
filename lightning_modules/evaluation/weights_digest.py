"""Who answers: a digest of the weights, by which a run that died knows whether its predictions are still its own."""

import hashlib

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all parameters, the same on every process; every process must call it.

    A process reads what it holds itself: nothing is gathered. Replicas hold the same, so their number does not matter,
    but a model that is cut into other pieces has another digest.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = getattr(parameter, "ds_tensor", parameter)  # DeepSpeed's ZeRO-3 leaves an empty parameter behind
        local = local.to_local() if isinstance(local, DTensor) else local
        digest.update(repr((tuple(local.shape), str(local.dtype))).encode())
        digest.update(local.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    found: list[str] = [digest.hexdigest()]
    if dist.is_available() and dist.is_initialized():
        found = [""] * dist.get_world_size()
        dist.all_gather_object(found, digest.hexdigest())
    return hashlib.sha256(" ".join(sorted(set(found))).encode()).hexdigest()
