"""Digest of a model's weights: an interrupted evaluation reuses predictions only if it matches."""

import hashlib

import torch
from torch import nn

from ...datamodules.finite_values import local_values
from ...datamodules.packing.replicas import gathered


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters, the same on every process; every process must call it.

    Each process digests its own shards, and nothing is gathered. The digest does not depend on the number of replicas,
    but a model with other shards has another digest.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = local_values(parameter)
        digest.update(repr((tuple(local.shape), str(local.dtype))).encode())
        digest.update(local.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashlib.sha256(" ".join(sorted(set(gathered(digest.hexdigest())))).encode()).hexdigest()
