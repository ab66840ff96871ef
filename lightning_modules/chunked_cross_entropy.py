"""Cross entropy from hidden states and the head's matrix, one part of the vocabulary at a time.

Logits, softmax and their gradients take 22 bytes for every target and token of the vocabulary: 90 GiB for 16,384
targets and 256,000 tokens. Here the forward pass keeps one number per target, the logarithm of its sum of exponentials,
and the backward pass computes the logits again, part by part. The vocabulary is divided rather than the targets, so
that every row of the matrix is read once and its gradient is written once.
"""

# N targets, D columns of a hidden state, V tokens of the vocabulary

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**24
"""Logits that exist at a time: 64 MiB in float32. Fewer targets than that are not chunked."""

SMALLEST_PART = 1024
"""Tokens of the vocabulary in the smallest part, for any number of targets."""


class LogitRule(NamedTuple):
    """How a model turns the products of hidden states and head matrix into logits: scaled, then capped.

    Args:
        scale: Factor of the logits (Cohere, Granite).
        cap: Logits become cap * tanh(logits / cap) (Gemma 2); None for no cap.

    >>> LogitRule(scale=2.0, cap=8.0).logits(torch.tensor([0.0, 100.0]))
    tensor([0., 8.])
    """

    scale: float = 1.0
    cap: float | None = None

    def logits(self, products: Tensor) -> Tensor:
        """Return the logits, of the same shape as the products."""
        scaled = products if self.scale == 1.0 else products * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def product_gradient(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Return the loss's gradient for the products, from its `gradient` for the logits, which is overwritten."""
        if self.cap is not None:
            gradient.mul_(1 - (logits / self.cap).square())
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


class VocabularyShard(NamedTuple):
    """The rows of the head's matrix that this process holds under tensor parallelism.

    Args:
        first: Token id of the first row.
        group: Processes that hold the other rows.
    """

    first: int
    group: dist.ProcessGroup


def chunked_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    rule: LogitRule = LogitRule(),  # noqa: B008 - frozen
    shard: VocabularyShard | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Return the sum of the cross entropies of N targets in nats, in float32 or better; it can be differentiated once.

    Args:
        hidden_ND: Hidden states, [N, D]. Products have autocast's type, or the matrix's without autocast.
        weight_VD: The head's matrix, [V, D], or this process's rows of it.
        bias_V: Added to the products, one number per row of the matrix; None for no bias.
        targets_N: Token ids in the whole vocabulary, int64 [N].
        rule: The model's function from products to logits.
        shard: This process's rows, if the matrix is divided over processes. The gradient of the hidden states is then
            this process's part of a sum over processes. None if the matrix is whole.
        chunk: Largest number of logits in memory.
    """
    device = hidden_ND.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    total: Tensor = _ChunkedCrossEntropy.apply(
        hidden_ND, weight_VD, bias_V, targets_N, _Settings(rule, shard, chunk, compute)
    )
    return total


class _Settings(NamedTuple):
    rule: LogitRule
    shard: VocabularyShard | None
    chunk: int
    compute: torch.dtype


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, settings: _Settings
    ) -> Tensor:
        targets = targets - (settings.shard.first if settings.shard else 0)
        with torch.autocast(hidden.device.type, enabled=False):
            sums, picked = _log_sums(hidden, weight, bias, targets, settings)
        if settings.shard is not None:
            sums, picked = _over_processes(sums, picked, settings.shard.group)
        ctx.save_for_backward(hidden, weight, bias, targets, sums)
        ctx.settings = settings
        return (sums - picked).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, sums = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.zeros_like(hidden, dtype=sums.dtype) if for_hidden else None
        d_weight = torch.empty_like(weight) if for_weight else None
        d_bias = torch.empty_like(bias) if for_bias else None
        narrow = hidden.to(ctx.settings.compute)
        for begin, end in _parts(len(weight), len(hidden), ctx.settings.chunk):
            rows = weight[begin:end].to(ctx.settings.compute)
            logits = _logits(narrow, rows, bias, begin, ctx.settings.rule)
            d_logits = (logits - sums.unsqueeze(1)).exp_()  # the softmax
            place, inside = _within(targets, begin, end)
            d_logits.scatter_add_(1, place, -inside.to(d_logits.dtype))
            d_products = ctx.settings.rule.product_gradient(d_logits.mul_(gradients[0]), logits)
            if d_bias is not None:
                d_bias[begin:end] = d_products.sum(0)
            d_narrow = d_products.to(ctx.settings.compute)
            if d_hidden is not None:
                d_hidden += d_narrow @ rows
            if d_weight is not None:
                d_weight[begin:end] = d_narrow.T @ narrow
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, d_bias, None, None


def _log_sums(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, settings: _Settings
) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exps [N] of the logits and the targets' logits [N]; 0 for targets in other processes' rows."""
    narrow = hidden.to(settings.compute)
    wide = torch.float64 if settings.compute == torch.float64 else torch.float32
    sums = torch.full((len(hidden),), -torch.inf, dtype=wide, device=hidden.device)
    picked = torch.zeros_like(sums)
    for begin, end in _parts(len(weight), len(hidden), settings.chunk):
        rows = weight[begin:end].to(settings.compute)
        logits = _logits(narrow, rows, bias, begin, settings.rule)
        sums = torch.logaddexp(sums, logits.logsumexp(1))
        place, inside = _within(targets, begin, end)
        picked = torch.where(inside.squeeze(1), logits.gather(1, place).squeeze(1), picked)
    return sums, picked


def _logits(hidden: Tensor, rows: Tensor, bias: Tensor | None, begin: int, rule: LogitRule) -> Tensor:
    """Return the logits of a part of the vocabulary, in float32 or float64."""
    part = None if bias is None else bias[begin : begin + len(rows)].to(rows.dtype)
    products = F.linear(hidden, rows, part)
    return rule.logits(products if products.dtype == torch.float64 else products.float())


def _parts(vocabulary: int, targets: int, chunk: int) -> list[tuple[int, int]]:
    """Return (begin, end) of the parts of a vocabulary; a part has at most `chunk` logits, but 1,024 tokens or more.

    >>> _parts(5000, 100, 300_000)
    [(0, 2048), (2048, 4096), (4096, 5000)]
    """
    size = max(chunk // max(targets, 1) // SMALLEST_PART, 1) * SMALLEST_PART
    return [(begin, min(begin + size, vocabulary)) for begin in range(0, vocabulary, size)]


def _within(targets: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Return each target's index within a part of the vocabulary and whether it is there, int64 and bool [N, 1]."""
    place = (targets - begin).unsqueeze(1)
    return place.clamp(0, end - begin - 1), (place >= 0) & (place < end - begin)


def _over_processes(sums: Tensor, picked: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exps and target logits over the rows of all processes."""
    largest = sums.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    shares = torch.stack([(sums - largest).exp(), picked])
    dist.all_reduce(shares, dist.ReduceOp.SUM, group)
    return largest + shares[0].log(), shares[1]
