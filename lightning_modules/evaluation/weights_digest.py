"""Digest of the weights: an interrupted evaluation reuses predictions only if it matches."""

import hashlib

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all parameters, the same on every process; every process must call it.

    Each process digests its own shards, and nothing is gathered. The digest does not depend on the number of replicas,
    but a model in other shards has another digest.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = getattr(
            parameter, "ds_tensor", parameter
        )  # DeepSpeed's ZeRO-3 keeps the shard in ds_tensor, and an empty parameter
        local = local.to_local() if isinstance(local, DTensor) else local
        digest.update(repr((tuple(local.shape), str(local.dtype))).encode())
        digest.update(local.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digests: list[str] = [digest.hexdigest()]
    if dist.is_available() and dist.is_initialized():
        digests = [""] * dist.get_world_size()
        dist.all_gather_object(digests, digest.hexdigest())
    return hashlib.sha256(" ".join(sorted(set(digests))).encode()).hexdigest()
